#pragma once

// JSON as text: what is written for every token is appended by hand, and what must reach a template
// unchanged is cut from the client's own bytes.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fathom::master {

// Quoted and escaped. Bytes that are no UTF-8 become U+FFFD.
void AppendJsonString(std::string& out, std::string_view text);
// Shortest form that reads back alike; infinities and NaN, which JSON lacks, as -9999.
void AppendJsonNumber(std::string& out, float value);
void AppendJsonNumber(std::string& out, int64_t value);

// `text` with every byte that is no UTF-8 replaced.
std::string ValidUtf8(std::string_view text);

// The bytes of member `key` of the object `json` (the last one of that name, as parsers have it).
// REQUIRES: `json` is valid JSON. Nothing when it is no object, has no such member, or spells any
// key with escapes.
std::optional<std::string_view> RawMember(std::string_view json, std::string_view key);

}  // namespace fathom::master
