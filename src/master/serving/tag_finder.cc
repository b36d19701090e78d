#include "master/serving/tag_finder.h"

#include <algorithm>
#include <utility>

namespace fathom::master {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

}  // namespace

bool TagFinder::Push(std::string_view piece, std::string& out) {
  held_.append(piece);
  const size_t found = held_.find(tag_);
  if (found != std::string::npos) {
    out += TrimEnd(std::string_view(held_).substr(0, found));
    held_.erase(0, found + tag_.size());
    return true;
  }
  size_t begun = std::min(held_.size(), tag_.size() - 1);
  while (begun > 0 && !tag_.starts_with(std::string_view(held_).substr(held_.size() - begun))) {
    --begun;
  }
  const size_t sure = TrimEnd(std::string_view(held_).substr(0, held_.size() - begun)).size();
  out.append(held_, 0, sure);
  held_.erase(0, sure);
  return false;
}

std::string TagFinder::Rest() { return std::exchange(held_, {}); }

std::string_view TrimEnd(std::string_view text) {
  const size_t last = text.find_last_not_of(kSpace);
  return last == std::string_view::npos ? std::string_view() : text.substr(0, last + 1);
}

std::string_view TrimStart(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  return first == std::string_view::npos ? std::string_view() : text.substr(first);
}

}  // namespace fathom::master
