#include "common/json_text.h"

#include <array>
#include <charconv>
#include <cmath>

namespace fathom {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the well-formed UTF-8 sequence at the start of `text`; 0 when there is none (Unicode
// 15, table 3-7).
size_t SequenceLength(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto tail = [&](size_t i, unsigned char low = 0x80, unsigned char high = 0xBF) {
    return i < text.size() && at(i) >= low && at(i) <= high;
  };
  const unsigned char lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const unsigned char low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : 0xBF;
    return tail(1, low, high) && tail(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const unsigned char low = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xF4 ? 0x8F : 0xBF;
    return tail(1, low, high) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void AppendEscape(std::string& out, char c) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      constexpr std::string_view kHex = "0123456789abcdef";
      out += "\\u00";
      out += kHex[static_cast<unsigned char>(c) >> 4];
      out += kHex[static_cast<unsigned char>(c) & 15];
  }
}

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Walks over valid JSON.
class Walker {
 public:
  explicit Walker(std::string_view json) : json_(json) {}

  void SkipSpace() {
    while (at_ < json_.size() && IsSpace(json_[at_])) ++at_;
  }
  bool Take(char c) {
    SkipSpace();
    if (at_ >= json_.size() || json_[at_] != c) return false;
    ++at_;
    return true;
  }
  // The bytes of the value that begins here.
  std::string_view Value() {
    SkipSpace();
    const size_t begin = at_;
    int depth = 0;
    while (at_ < json_.size()) {
      const char c = json_[at_];
      if (c == '"') {
        SkipString();
        if (depth == 0) break;
        continue;
      }
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') {
        if (depth == 0) break;  // the end of what surrounds a number
        --depth;
        ++at_;
        if (depth == 0) break;
        continue;
      }
      if (depth == 0 && (c == ',' || IsSpace(c) || c == ':')) break;
      ++at_;
    }
    return json_.substr(begin, at_ - begin);
  }

 private:
  void SkipString() {
    for (++at_; at_ < json_.size() && json_[at_] != '"'; ++at_) {
      if (json_[at_] == '\\') ++at_;
    }
    ++at_;
  }

  std::string_view json_;
  size_t at_ = 0;
};

}  // namespace

void AppendJsonString(std::string& out, std::string_view text) {
  out += '"';
  size_t plain = 0;  // begin of what need not be changed
  size_t i = 0;
  while (i < text.size()) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || c == '"' || c == '\\') {
      out.append(text, plain, i - plain);
      AppendEscape(out, c);
      plain = ++i;
      continue;
    }
    const size_t length = byte < 0x80 ? 1 : SequenceLength(text.substr(i));
    if (length == 0) {
      out.append(text, plain, i - plain);
      out += kReplacement;
      plain = ++i;
      continue;
    }
    i += length;
  }
  out.append(text, plain, text.size() - plain);
  out += '"';
}

void AppendJsonNumber(std::string& out, float value) {
  if (!std::isfinite(value)) {
    out += "-9999.0";
    return;
  }
  std::array<char, 32> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  out.append(buffer.data(), result.ptr);
}

void AppendJsonNumber(std::string& out, int64_t value) { out += std::to_string(value); }

std::string ValidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    if (length == 0) {
      out += kReplacement;
      text.remove_prefix(1);
    } else {
      out += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return out;
}

std::optional<std::vector<RawEntry>> RawMembers(std::string_view json) {
  Walker walker(json);
  if (!walker.Take('{')) return std::nullopt;
  std::vector<RawEntry> members;
  if (walker.Take('}')) return members;
  do {
    const std::string_view name = walker.Value();
    if (name.size() < 2 || !walker.Take(':')) return std::nullopt;
    // An escaped name may be any other one: the parser knows, this walk does not.
    if (name.find('\\') != std::string_view::npos) return std::nullopt;
    members.push_back({.key = name.substr(1, name.size() - 2), .value = walker.Value()});
  } while (walker.Take(','));
  return members;
}

std::optional<std::vector<std::string_view>> RawElements(std::string_view json) {
  Walker walker(json);
  if (!walker.Take('[')) return std::nullopt;
  std::vector<std::string_view> elements;
  if (walker.Take(']')) return elements;
  do {
    elements.push_back(walker.Value());
  } while (walker.Take(','));
  return elements;
}

std::optional<std::string_view> RawMember(std::string_view json, std::string_view key) {
  std::optional<std::string_view> found;
  for (const RawEntry& member : RawMembers(json).value_or(std::vector<RawEntry>())) {
    if (member.key == key) found = member.value;
  }
  return found;
}

}  // namespace fathom
