#include "master/fleet/cache_follower.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::master {
namespace {

absl::Status CopyNames(const google::protobuf::RepeatedPtrField<std::string>& from,
                       std::vector<Hash128>* to) {
  if (from.size() > CacheFollower::kNamesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a cache event with ", from.size(), " names, not ", CacheFollower::kNamesMax));
  }
  to->resize(from.size());
  for (int i = 0; i < from.size(); ++i) {
    if (from[i].size() != sizeof(Hash128)) {
      return absl::InvalidArgumentError("the name of a block has 16 bytes");
    }
    std::memcpy(&(*to)[i], from[i].data(), sizeof(Hash128));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CacheUpdate> CacheFollower::Take(const v1::KvEvents& events) {
  CacheUpdate update;
  RETURN_IF_ERROR(CopyNames(events.stored(), &update.stored));
  RETURN_IF_ERROR(CopyNames(events.evicted(), &update.evicted));
  const bool gap = events.sequence() != sequence_ + 1;
  sequence_ = events.sequence();
  if (gap) request_ = page_ = 0;
  if (!events.has_resync_page()) return update;

  // A new page 0 begins anew; other pages than the awaited one are of a resync that was given up.
  const uint64_t page = events.resync_page();
  if (gap || (page != 0 && page_ != page)) return CacheUpdate{};
  if (page >= kPagesMax) return absl::InvalidArgumentError("a resync of a cache without end");
  update.resync_begins = page == 0;
  update.resync_ends = events.last_page();
  page_ = events.last_page() ? std::nullopt : std::optional(page + 1);
  request_ = page_;
  return update;
}

}  // namespace fathom::master
