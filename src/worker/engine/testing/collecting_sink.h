#pragma once

// What engine tests share: a sink that collects, and waits.

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "worker/engine/request.h"

namespace fathom::worker {

// Everything one choice of one attempt gave.
struct Gathered {
  std::vector<TokenId> tokens;  // from `first_index` on
  int32_t first_index = -1;
  std::vector<PositionLogprobs> logprobs;
  std::vector<PositionLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string error;
  int32_t cached_tokens = 0;
  int num_ends = 0;
};

// Checks what holds for every stream: no gap, no repeat, nothing after the end.
class CollectingSink final : public OutputSink {
 public:
  struct Key {
    std::string id;
    uint32_t attempt;
    int32_t choice;
    auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr)
  };

  void OnStep(std::vector<SequenceOutput> outputs) override {
    const std::lock_guard lock(mutex_);
    for (SequenceOutput& out : outputs) {
      Gathered& g = all_[{out.request_id, out.attempt, out.choice}];
      FATHOM_CHECK(g.num_ends == 0, "output after the end");
      if (g.first_index < 0) g.first_index = out.first_index;
      FATHOM_CHECK(out.first_index == g.first_index + static_cast<int32_t>(g.tokens.size()),
                   "a gap or a repeat in a stream");
      g.tokens.insert(g.tokens.end(), out.tokens.begin(), out.tokens.end());
      g.logprobs.insert(g.logprobs.end(), out.logprobs.begin(), out.logprobs.end());
      if (!out.prompt_logprobs.empty()) g.prompt_logprobs = std::move(out.prompt_logprobs);
      g.cached_tokens += out.cached_tokens;
      if (out.finish == FinishReason::kNone) continue;
      g.finish = out.finish;
      g.error = out.error;
      ++g.num_ends;
      ++ends_;
    }
    changed_.notify_all();
  }
  void OnDead(const absl::Status& reason) override {
    const std::lock_guard lock(mutex_);
    dead_ = reason;
    changed_.notify_all();
  }

  void WaitForEnds(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ends_ >= count || !dead_.ok(); });
  }
  void WaitForTokens(const Key& key, size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return all_[key].tokens.size() >= count || !dead_.ok(); });
  }
  Gathered Of(const std::string& id, int32_t choice = 0, uint32_t attempt = 1) const {
    const std::lock_guard lock(mutex_);
    const auto it = all_.find({id, attempt, choice});
    return it == all_.end() ? Gathered{} : it->second;
  }
  std::map<Key, Gathered> All() const {
    const std::lock_guard lock(mutex_);
    return all_;
  }
  size_t ends() const {
    const std::lock_guard lock(mutex_);
    return ends_;
  }
  absl::Status dead() const {
    const std::lock_guard lock(mutex_);
    return dead_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // State below is protected by mutex_.
  std::map<Key, Gathered> all_;
  size_t ends_ = 0;
  absl::Status dead_;
};

}  // namespace fathom::worker
