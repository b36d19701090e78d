#pragma once

// Finds a tag in streamed text and says what before it is sure. What might be the beginning of the
// tag is held back, and so is the white space before it, which belongs to the tag when it comes and
// to the text when it does not. One thread at a time.

#include <string>
#include <string_view>

namespace fathom::master {

class TagFinder {
 public:
  explicit TagFinder(std::string_view tag) : tag_(tag) {}

  // Appends what became sure before the tag to `out`, without the white space that leads up to it.
  // True once the tag was found; Rest() is then what came after it.
  bool Push(std::string_view piece, std::string& out);
  // What was held back (before the tag was found) or has come after it; forgets it.
  std::string Rest();

 private:
  const std::string_view tag_;
  std::string held_;
};

// `text` without the white space at its end, at its beginning.
std::string_view TrimEnd(std::string_view text);
std::string_view TrimStart(std::string_view text);

}  // namespace fathom::master
