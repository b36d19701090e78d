#pragma once

// What must not run again for a while, as it goes from master to master by way of the workers: what
// this master has found out and what workers have heard from others. Names are opaque here. Every
// worker is told what is news to this master, and one that links, all. Besides, what workers say
// that they ran when they crash, which goes no further: they tell every master. Any thread.

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/expiring_names.h"
#include "fathom/v1/link.pb.h"
#include "master/fleet/fleet.h"

namespace fathom::master {

inline constexpr int kLastWordsMax = 1024;  // as link.proto has it

class CondemnedNews {
 public:
  using Callback = std::function<void(const std::string& name, absl::Duration remaining)>;

  explicit CondemnedNews(const Clock* clock) : clock_(clock) {}
  CondemnedNews(const CondemnedNews&) = delete;
  CondemnedNews& operator=(const CondemnedNews&) = delete;

  // Hears what workers tell, and what they have told before. Set once.
  void OnNews(Callback callback);

  // Of this master's own. What to tell the workers, if it is news.
  std::optional<v1::MasterControl> Add(const std::string& name, absl::Duration remaining);
  // Of a worker. What to tell the other ones, if it is news; INVALID_ARGUMENT for what cannot be.
  absl::StatusOr<std::optional<v1::MasterControl>> Hear(const v1::Condemned& condemned);
  // Hears last words. Set once.
  using Listener = std::function<void(const std::vector<LastRun>&)>;
  void OnLastWords(Listener listener);
  absl::Status Hear(const v1::LastWords& words) const;
  // What to tell a worker that has linked.
  std::vector<v1::MasterControl> All() const;

 private:
  bool Keep(const std::string& name, absl::Duration remaining, size_t room);

  const Clock* const clock_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  ExpiringNames names_{4096};
  std::shared_ptr<const Callback> callback_;
  std::shared_ptr<const Listener> listener_;
};

}  // namespace fathom::master
