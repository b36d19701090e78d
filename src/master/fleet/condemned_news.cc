#include "master/fleet/condemned_news.h"

#include <algorithm>
#include <utility>

namespace fathom::master {
namespace {

constexpr size_t kNameBytes = 32;
constexpr absl::Duration kRemainingMax = absl::Minutes(10);
// What workers tell leaves room for what this master finds out.
constexpr size_t kHeardMax = 2048;
constexpr size_t kAllMax = 4096;
constexpr int32_t kCrashesMax = 16;

v1::MasterControl ToMessage(const std::string& name, absl::Duration remaining) {
  v1::MasterControl message;
  message.mutable_condemned()->set_fingerprint(name);
  message.mutable_condemned()->set_remaining_ms(absl::ToInt64Milliseconds(remaining));
  return message;
}

}  // namespace

void CondemnedNews::OnNews(Callback callback) {
  auto shared = std::make_shared<const Callback>(std::move(callback));
  std::vector<std::pair<std::string, int64_t>> before;
  {
    const std::lock_guard lock(mutex_);
    callback_ = shared;
    before = names_.All(clock_->MonotonicNs());
  }
  for (const auto& [name, left_ns] : before) (*shared)(name, absl::Nanoseconds(left_ns));
}

bool CondemnedNews::Keep(const std::string& name, absl::Duration remaining, size_t room) {
  const std::lock_guard lock(mutex_);
  const int64_t now_ns = clock_->MonotonicNs();
  if (names_.size() >= room && names_.All(now_ns).size() >= room) return false;
  return names_.Add(name, now_ns + absl::ToInt64Nanoseconds(remaining), now_ns);
}

std::optional<v1::MasterControl> CondemnedNews::Add(const std::string& name,
                                                    absl::Duration remaining) {
  if (!Keep(name, remaining, kAllMax)) return std::nullopt;
  return ToMessage(name, remaining);
}

absl::StatusOr<std::optional<v1::MasterControl>> CondemnedNews::Hear(
    const v1::Condemned& condemned) {
  const std::string& name = condemned.fingerprint();
  if (name.size() != kNameBytes || condemned.remaining_ms() <= 0) {
    return absl::InvalidArgumentError("what is condemned has a name of 32 bytes and a time");
  }
  const absl::Duration remaining =
      std::min(kRemainingMax, absl::Milliseconds(condemned.remaining_ms()));
  if (!Keep(name, remaining, kHeardMax)) return std::nullopt;
  std::shared_ptr<const Callback> callback;
  {
    const std::lock_guard lock(mutex_);
    callback = callback_;
  }
  if (callback != nullptr) (*callback)(name, remaining);
  return ToMessage(name, remaining);
}

void CondemnedNews::OnLastWords(Listener listener) {
  auto shared = std::make_shared<const Listener>(std::move(listener));
  const std::lock_guard lock(mutex_);
  listener_ = std::move(shared);
}

absl::Status CondemnedNews::Hear(const v1::LastWords& words) const {
  if (words.runs_size() > kLastWordsMax)
    return absl::InvalidArgumentError("last words are too many");
  std::vector<LastRun> runs;
  runs.reserve(words.runs_size());
  for (const v1::LastWords::Run& run : words.runs()) {
    if (run.fingerprint().size() != kNameBytes || run.crashes() < 0) {
      return absl::InvalidArgumentError("what ran has a name of 32 bytes, and crashes or none");
    }
    // Else one that lies could have ever so much condemned.
    if (run.crashes() > 0 && !runs.empty()) {
      return absl::InvalidArgumentError("one request alone runs alone, and is named first");
    }
    runs.push_back({run.fingerprint(), std::min(run.crashes(), kCrashesMax)});
  }
  std::shared_ptr<const Listener> listener;
  {
    const std::lock_guard lock(mutex_);
    listener = listener_;
  }
  if (listener != nullptr) (*listener)(runs);
  return absl::OkStatus();
}

std::vector<v1::MasterControl> CondemnedNews::All() const {
  std::vector<v1::MasterControl> messages;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, left_ns] : names_.All(clock_->MonotonicNs())) {
    // Rounded up: a time of nothing would be none.
    messages.push_back(ToMessage(name, absl::Nanoseconds(left_ns) + absl::Milliseconds(1)));
  }
  return messages;
}

}  // namespace fathom::master
