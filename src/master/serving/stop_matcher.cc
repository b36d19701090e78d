#include "master/serving/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace fathom::master {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
}

std::string StopMatcher::Push(std::string_view piece) {
  if (stopped_) return {};
  if (stops_.empty()) return std::string(piece);
  held_.append(piece);
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  const size_t keep = HoldBack();
  std::string sure = held_.substr(0, held_.size() - keep);
  held_.erase(0, sure.size());
  return sure;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

size_t StopMatcher::HoldBack() const {
  const std::string_view held = held_;
  for (size_t length = std::min(held.size(), longest_ - 1); length > 0; --length) {
    const std::string_view suffix = held.substr(held.size() - length);
    for (const std::string& stop : stops_) {
      if (stop.size() > length && std::string_view(stop).starts_with(suffix)) return length;
    }
  }
  return 0;
}

}  // namespace fathom::master
