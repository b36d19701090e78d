// JSON as text: what is cut from a client's bytes parses to what the parser saw there, and any
// bytes can be written as a string.

#include "common/json_text.h"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "fuzz/input.h"

namespace {

namespace json = boost::json;

std::optional<json::value> Parse(std::string_view text) {
  json::parse_options options;
  options.max_depth = 64;
  boost::system::error_code error;
  json::value value = json::parse({text.data(), text.size()}, error, {}, options);
  if (error) return std::nullopt;
  return value;
}

void CheckCuts(std::string_view text, const json::value& value);

void CheckObject(std::string_view text, const json::object& object) {
  const auto members = fathom::RawMembers(text);
  if (!members) return;  // a key with escapes
  for (const fathom::RawEntry& member : *members) {
    FATHOM_CHECK(object.contains({member.key.data(), member.key.size()}), "a key out of nowhere");
    FATHOM_CHECK(Parse(member.value).has_value(), "a member that is no JSON");
  }
  for (const json::key_value_pair& member : object) {
    const auto raw = fathom::RawMember(text, {member.key().data(), member.key().size()});
    FATHOM_CHECK(raw.has_value(), "a member was lost");
    CheckCuts(*raw, member.value());
  }
}

void CheckCuts(std::string_view text, const json::value& value) {
  const std::optional<json::value> parsed = Parse(text);
  FATHOM_CHECK(parsed.has_value() && *parsed == value, "cut in the wrong place");
  FATHOM_CHECK(fathom::RawMembers(text).has_value() <= value.is_object(), "members of no object");
  FATHOM_CHECK(fathom::RawElements(text).has_value() == value.is_array(), "elements of no array");
  if (value.is_object()) CheckObject(text, value.as_object());
  if (!value.is_array()) return;
  const auto elements = *fathom::RawElements(text);
  FATHOM_CHECK(elements.size() == value.as_array().size(), "another number of elements");
  for (size_t i = 0; i < elements.size(); ++i) CheckCuts(elements[i], value.as_array()[i]);
}

void CheckWriting(std::string_view bytes) {
  std::string written;
  fathom::AppendJsonString(written, bytes);
  const std::optional<json::value> read = Parse(written);
  FATHOM_CHECK(read.has_value() && read->is_string(), "a string that cannot be read");
  const std::string valid = fathom::ValidUtf8(bytes);
  FATHOM_CHECK(read->as_string() == valid, "a string that reads otherwise");
  FATHOM_CHECK(fathom::ValidUtf8(valid) == valid, "valid text was changed");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  CheckWriting(text);
  if (const std::optional<json::value> value = Parse(text)) CheckCuts(text, *value);
  return 0;
}
