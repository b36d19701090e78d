#pragma once

// Takes a fuzzer's input apart. Choices are single characters and lines at its head, so that seeds
// are files one can read and write.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom::fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(reinterpret_cast<const char*>(data), size) {}

  // The next byte; 0 at the end.
  uint8_t Byte() {
    if (left_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(left_.front());
    left_.remove_prefix(1);
    return byte;
  }
  // Up to a line that holds `mark` alone, which is taken too; everything when there is none.
  std::string_view Section(std::string_view mark) {
    size_t at = 0;
    while (true) {
      const size_t end = left_.find('\n', at);
      if (left_.substr(at, end - at) == mark) break;
      if (end == std::string_view::npos) return std::exchange(left_, {});
      at = end + 1;
    }
    const std::string_view section = left_.substr(0, at);
    left_.remove_prefix(at + mark.size());
    if (!left_.empty()) left_.remove_prefix(1);
    return section;
  }
  // Up to a newline, which is taken too.
  std::string_view Line() {
    const size_t end = left_.find('\n');
    if (end == std::string_view::npos) return std::exchange(left_, {});
    const std::string_view line = left_.substr(0, end);
    left_.remove_prefix(end + 1);
    return line;
  }
  std::string_view Rest() const { return left_; }

 private:
  std::string_view left_;
};

// `text` in pieces whose sizes follow from `seed`: single bytes for '0', up to 32 bytes otherwise.
inline std::vector<std::string_view> Cut(std::string_view text, uint8_t seed) {
  std::vector<std::string_view> pieces;
  uint32_t state = seed;
  while (!text.empty()) {
    state = state * 1664525 + 1013904223;
    const size_t size = seed == '0' ? 1 : 1 + (state >> 24) % 32;
    pieces.push_back(text.substr(0, size));
    text.remove_prefix(pieces.back().size());
  }
  return pieces;
}

}  // namespace fathom::fuzz
