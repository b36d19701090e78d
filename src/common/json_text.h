#pragma once

// JSON as text: what is written for every token is appended by hand, and what must reach a template
// unchanged is cut from the client's own bytes.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Quoted and escaped. Bytes that are no UTF-8 become U+FFFD.
void AppendJsonString(std::string& out, std::string_view text);
// Shortest form that reads back alike; infinities and NaN, which JSON lacks, as -9999.
void AppendJsonNumber(std::string& out, float value);
void AppendJsonNumber(std::string& out, int64_t value);

// `text` with every byte that is no UTF-8 replaced.
std::string ValidUtf8(std::string_view text);

// Members of an object in order, quotes of the keys left out; elements of an array.
// REQUIRES: `json` is valid JSON. Nothing when it is of another kind; nor when a key is spelled
// with escapes, for then the key is not what its bytes say.
struct RawEntry {
  std::string_view key;
  std::string_view value;
};
std::optional<std::vector<RawEntry>> RawMembers(std::string_view json);
std::optional<std::vector<std::string_view>> RawElements(std::string_view json);

// The bytes of member `key` of the object `json` (the last one of that name, as parsers have it).
// As RawMembers; nothing also when there is no such member.
std::optional<std::string_view> RawMember(std::string_view json, std::string_view key);

}  // namespace fathom
