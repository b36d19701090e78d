#pragma once

// Finds stop strings in streamed text. What might be the beginning of one is held back until it is
// sure; a stop string never shows in the text. One thread at a time.

#include <string>
#include <string_view>
#include <vector>

namespace fathom::master {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  // The text that became sure with `piece`. Once stopped() it is all there will be.
  std::string Push(std::string_view piece);
  // What was held back; no stop string can follow any more.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  // Length of the longest suffix of held_ that begins a stop string.
  size_t HoldBack() const;

  const std::vector<std::string> stops_;
  size_t longest_ = 0;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace fathom::master
