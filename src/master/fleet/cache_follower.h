#pragma once

// Follows what one worker tells of its prefix cache: checks the messages, sees gaps in their
// numbers, and asks for the whole set page by page at the start and after a gap. Thread safety:
// none.

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "fathom/v1/link.pb.h"
#include "master/fleet/fleet.h"

namespace fathom::master {

class CacheFollower {
 public:
  static constexpr int kNamesMax = 8192;       // in a list of a message
  static constexpr uint64_t kPagesMax = 4096;  // 32 M blocks

  // INVALID_ARGUMENT for names that are none and for lists or resyncs without end.
  absl::StatusOr<CacheUpdate> Take(const v1::KvEvents& events);
  // The page to ask for now, once.
  std::optional<uint64_t> TakeRequest() { return std::exchange(request_, std::nullopt); }

 private:
  uint64_t sequence_ = 0;                // of the last message
  std::optional<uint64_t> request_ = 0;  // first of all
  std::optional<uint64_t> page_ = 0;     // the one that is awaited
};

}  // namespace fathom::master
