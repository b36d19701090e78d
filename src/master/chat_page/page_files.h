#pragma once

// The files of the chat page as the build embedded them. The page needs nothing else: no build step
// of its own, nothing from other hosts, no file beside the binary.

#include <string_view>
#include <vector>

namespace fathom::master {

struct PageFile {
  std::string_view name;  // "app.js"
  std::string_view bytes;
  std::string_view sha256;  // of the bytes, lower-case hex
};

// Any thread; they live as long as the program.
const std::vector<PageFile>& PageFiles();

}  // namespace fathom::master
