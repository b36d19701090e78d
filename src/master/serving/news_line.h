#pragma once

// What workers tell of a request, on its way to the generation that has it. The fleet knows the
// line alone: when one generation takes over from another, the line leads elsewhere and nothing is
// left of the one before. Listeners must not block, nor come back to the line. Any thread.
//
// Invariant: what comes is heard in the order in which it came, each by one listener: between Pause
// and Connect it waits.

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "master/fleet/fleet.h"

namespace fathom::master {

class NewsLine final : public SubmissionListener {
 public:
  explicit NewsLine(std::shared_ptr<SubmissionListener> listener)
      : listener_(std::move(listener)) {}

  void Pause() {
    const std::lock_guard lock(mutex_);
    listener_ = nullptr;
  }
  void Connect(std::shared_ptr<SubmissionListener> listener) {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
    for (const News& news : std::exchange(waiting_, {})) news(*listener_);
  }

  void OnAccepted(uint32_t attempt) override {
    const std::lock_guard lock(mutex_);
    if (listener_ != nullptr) return listener_->OnAccepted(attempt);
    waiting_.emplace_back([attempt](SubmissionListener& to) { to.OnAccepted(attempt); });
  }
  void OnRejected(uint32_t attempt, const absl::Status& status,
                  absl::Duration retry_after) override {
    const std::lock_guard lock(mutex_);
    if (listener_ != nullptr) return listener_->OnRejected(attempt, status, retry_after);
    waiting_.emplace_back(
        [=](SubmissionListener& to) { to.OnRejected(attempt, status, retry_after); });
  }
  void OnOutput(SubmissionOutput output) override {
    const std::lock_guard lock(mutex_);
    if (listener_ != nullptr) return listener_->OnOutput(std::move(output));
    waiting_.emplace_back(
        [output = std::move(output)](SubmissionListener& to) { to.OnOutput(output); });
  }
  void OnWorkerLost(uint32_t attempt, const WorkerLoss& loss) override {
    const std::lock_guard lock(mutex_);
    if (listener_ != nullptr) return listener_->OnWorkerLost(attempt, loss);
    waiting_.emplace_back(
        [attempt, loss](SubmissionListener& to) { to.OnWorkerLost(attempt, loss); });
  }

 private:
  using News = std::function<void(SubmissionListener&)>;

  std::mutex mutex_;
  // State below is protected by mutex_.
  std::shared_ptr<SubmissionListener> listener_;  // null: paused
  std::vector<News> waiting_;
};

}  // namespace fathom::master
