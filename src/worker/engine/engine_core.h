#pragma once

// The engine without its thread: takes requests, runs steps, emits outputs. One call of Step plans
// and launches step n + 1, then waits for step n and commits it, so that the device always has the
// next step. Everything happens in the calls; nothing reads a clock but through `clock`.
//
// Thread safety: none; one thread owns it, and only `board` is read by others.

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "worker/engine/batch.h"
#include "worker/engine/engine.h"
#include "worker/engine/executor.h"
#include "worker/engine/kv_blocks.h"
#include "worker/engine/prefill_meter.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/stats_board.h"
#include "worker/engine/step_timer.h"

namespace fathom::worker {

class EngineCore {
 public:
  EngineCore(const EngineOptions& options, Executor* executor, int32_t mask_words, OutputSink* sink,
             const Clock* clock, StatsBoard* board);
  // Waits for steps in flight; requests that have not ended stay without an end.
  ~EngineCore();

  // Takes a valid request. One with a grammar waits for OnCompiled.
  void Add(EngineRequest request);
  // The grammar of a request, or why there is none; ignored when the request is gone.
  void OnCompiled(const std::string& id, uint32_t attempt,
                  absl::StatusOr<std::unique_ptr<GrammarState>> grammar);
  void Cancel(const std::string& id, uint32_t attempt, const std::vector<int32_t>& choices);
  void CancelAll();

  // Runs a step. False: there was nothing to do. An error is fatal.
  absl::StatusOr<bool> Step();
  // Sends what calls other than Step had to say.
  void Flush();

  // Ids (and attempts) of requests that ended since the last call.
  std::vector<std::pair<std::string, uint32_t>> TakeEnded() { return std::exchange(gone_, {}); }
  // Requests that have not ended.
  size_t num_requests() const { return by_id_.size(); }
  // Requests that have not begun to compute.
  size_t num_waiting_requests() const { return num_compiling_ + scheduler_.num_queued_requests(); }
  // When the next deadline of a request passes; INT64_MAX: none.
  int64_t NextDeadlineNs() const {
    return deadlines_.empty() ? INT64_MAX : deadlines_.begin()->first;
  }
  void CheckIntegrity() const { scheduler_.CheckIntegrity(); }
  void Publish(EngineState state);
  // Counts and rates start anew; what steps may take stays known.
  void ForgetFigures();

 private:
  static constexpr int32_t kMaxInFlight = 2;

  SequenceOutput& OutputOf(Sequence* s);
  void End(Sequence* s, FinishReason reason, std::string error);
  void EndRequest(RequestState* request, FinishReason reason, const std::string& error);
  void ExpireDeadlines();
  void Activate(RequestState* request);
  void Launch(struct Step* step);
  void LaunchSample(struct Step* step);
  void FillMask(Sequence* s, SampleRow* row, std::span<uint32_t> mask);
  absl::Status AwaitAndCommit(struct Step* step);
  void ObserveIdle(const struct Step& step, const SampleOutput& output);
  void CommitChunk(const PlannedChunk& chunk, const SampleOutput& output, size_t row,
                   size_t first_score);
  void CommitToken(Sequence* s, TokenId token, const PositionLogprobs& logprobs);
  FinishReason EndOf(Sequence* s, TokenId token, std::string* error);
  void Sweep();

  const EngineOptions options_;
  Executor* const executor_;
  const int32_t mask_words_;
  OutputSink* const sink_;
  const Clock* const clock_;
  StatsBoard* const board_;

  std::vector<std::unique_ptr<RequestState>> requests_;  // ended ones until their steps retired
  KvBlocks kv_;
  Scheduler scheduler_;
  absl::flat_hash_map<std::string, RequestState*> by_id_;  // not ended
  std::set<std::pair<int64_t, RequestState*>> deadlines_;
  size_t num_compiling_ = 0;

  struct Step steps_[kMaxInFlight];
  struct Step* in_flight_ = nullptr;  // launched and not awaited
  uint64_t next_serial_ = 1;
  uint64_t retired_ = 0;
  int64_t step_started_ns_ = 0;  // when the device began with in_flight_
  StepTimer timer_;
  StepTimer decode_timer_;  // of steps that compute no prompt
  PrefillMeter prefill_meter_;
  int64_t device_ended_ns_ = 0;  // of the step before, by the device's clock; 0: not known
  prometheus::Histogram& mask_seconds_;
  prometheus::Histogram& idle_seconds_;

  std::vector<SequenceOutput> outputs_;
  absl::flat_hash_map<Sequence*, size_t> output_index_;
  std::vector<std::pair<std::string, uint32_t>> gone_;
  bool sweep_ = false;
  EngineStats stats_;
};

}  // namespace fathom::worker
