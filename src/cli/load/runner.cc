#include "cli/load/runner.h"

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <queue>
#include <utility>
#include <vector>

namespace fathom::cli {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kProgressEvery = absl::Milliseconds(250);
// A closed loop does not hammer a server that fails at once.
constexpr absl::Duration kPauseAfterFailure = absl::Milliseconds(100);
// Prompts of the warm-up are none that count later.
constexpr uint64_t kWarmupIndex = uint64_t{1} << 40;

// Ends as they come from the transport's threads. Outlives the run, in whose sinks it is.
class Ends {
 public:
  void Push(Answer answer) {
    {
      const std::lock_guard lock(mutex_);
      ended_.push_back(std::move(answer));
    }
    changed_.notify_one();
  }
  // What has ended; waits for something, but not longer.
  std::vector<Answer> Take(absl::Duration wait) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, absl::ToChronoNanoseconds(std::max(wait, absl::ZeroDuration())),
                      [&] { return !ended_.empty(); });
    return std::exchange(ended_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Answer> ended_;  // protected by mutex_
};

class Run {
 public:
  Run(const Workload& workload, RunnerOptions options, const Goodput& goodput,
      LoadTransport& transport, const Clock& clock, ShutdownSignal& shutdown, uint64_t first_index)
      : workload_(workload),
        options_(std::move(options)),
        transport_(transport),
        clock_(clock),
        shutdown_(shutdown),
        asked_before_(shutdown.count()),
        index_(first_index),
        out_{.tally = Tally(goodput)} {}

  LoadOutcome Go(const std::function<void(const LoadProgress&)>& on_progress) {
    start_ns_ = clock_.MonotonicNs();
    last_end_ns_ = start_ns_;
    if (!options_.next_arrival) {
      for (int32_t i = 0; i < options_.concurrency; ++i) slots_.push(start_ns_);
    }
    Advance();
    int64_t report_ns = start_ns_;
    while (due_ns_ != kNever || running_ > 0) {
      const int64_t now_ns = clock_.MonotonicNs();
      SendDue(now_ns);
      if (now_ns >= report_ns) {
        report_ns = now_ns + absl::ToInt64Nanoseconds(kProgressEvery);
        on_progress(Progress(now_ns));
      }
      const bool room = options_.concurrency == 0 || running_ < options_.concurrency;
      const absl::Duration until_due =
          due_ns_ == kNever || !room ? kTick : absl::Nanoseconds(due_ns_ - clock_.MonotonicNs());
      for (const Answer& answer : ends_->Take(std::min(kTick, until_due))) Count(answer);
      if (!out_.interrupted && shutdown_.count() > asked_before_) {
        out_.interrupted = true;
        due_ns_ = kNever;
        transport_.CancelAll();
      }
    }
    on_progress(Progress(clock_.MonotonicNs()));
    out_.took = absl::Nanoseconds(last_end_ns_ - start_ns_);
    return std::move(out_);
  }

 private:
  // Sets when the next request is due, or that there is none.
  void Advance() {
    due_ns_ = kNever;
    if (out_.interrupted || (options_.requests > 0 && sent_ >= options_.requests)) return;
    int64_t due_ns = 0;
    if (options_.next_arrival) {
      due_ns = start_ns_ + absl::ToInt64Nanoseconds(options_.next_arrival());
    } else {
      if (slots_.empty()) return;  // an end brings one
      due_ns = slots_.top();
      slots_.pop();
    }
    const bool over = options_.duration > absl::ZeroDuration() &&
                      due_ns - start_ns_ >= absl::ToInt64Nanoseconds(options_.duration);
    if (!over) due_ns_ = due_ns;
  }

  void SendDue(int64_t now_ns) {
    while (due_ns_ <= now_ns && (options_.concurrency == 0 || running_ < options_.concurrency)) {
      const LoadItem item = workload_.Make(index_++);
      // In a closed loop a request is due when it can be sent.
      const int64_t scheduled_ns = options_.next_arrival ? due_ns_ : clock_.MonotonicNs();
      ++sent_;
      out_.peak_concurrent = std::max(out_.peak_concurrent, ++running_);
      transport_.Send(item, scheduled_ns,
                      [ends = ends_](Answer answer) { ends->Push(std::move(answer)); });
      Advance();
    }
  }

  void Count(const Answer& answer) {
    --running_;
    last_end_ns_ = std::max(last_end_ns_, answer.end_ns);
    // What we ended ourselves says nothing about the server.
    if (!out_.interrupted || !absl::IsCancelled(answer.status)) out_.tally.Add(answer);
    if (options_.next_arrival) return;
    const absl::Duration pause = answer.status.ok() ? absl::ZeroDuration() : kPauseAfterFailure;
    slots_.push(clock_.MonotonicNs() + absl::ToInt64Nanoseconds(pause));
    if (due_ns_ == kNever) Advance();
  }

  LoadProgress Progress(int64_t now_ns) const {
    return {.done = out_.tally.ok() + out_.tally.failed(),
            .failed = out_.tally.failed(),
            .running = running_,
            .output_tokens = out_.tally.output_tokens(),
            .since_start = absl::Nanoseconds(now_ns - start_ns_)};
  }

  const Workload& workload_;
  const RunnerOptions options_;
  LoadTransport& transport_;
  const Clock& clock_;
  ShutdownSignal& shutdown_;
  const int asked_before_;
  const std::shared_ptr<Ends> ends_ = std::make_shared<Ends>();
  uint64_t index_;
  int64_t start_ns_ = 0;
  int64_t last_end_ns_ = 0;
  int64_t due_ns_ = kNever;  // of the next request
  int64_t sent_ = 0;
  int64_t running_ = 0;
  // Closed loop: when each free place may be used.
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> slots_;
  LoadOutcome out_;
};

}  // namespace

LoadOutcome RunLoad(const Workload& workload, const RunnerOptions& options, const Goodput& goodput,
                    LoadTransport& transport, const Clock& clock, ShutdownSignal& shutdown,
                    const std::function<void(const LoadProgress&)>& on_progress) {
  if (options.warmup > 0) {
    const RunnerOptions warmup{.requests = options.warmup,
                               .concurrency = std::max(options.concurrency, 1)};
    const LoadOutcome warm =
        Run(workload, warmup, goodput, transport, clock, shutdown, kWarmupIndex)
            .Go([](const LoadProgress&) {});
    if (warm.interrupted) return {.tally = Tally(goodput), .interrupted = true};
  }
  return Run(workload, options, goodput, transport, clock, shutdown, 0).Go(on_progress);
}

}  // namespace fathom::cli
