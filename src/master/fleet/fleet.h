#pragma once

// The fleet as serving sees it: which workers there are, and a way to run a submission on one of
// them. The real one speaks the link protocol; tests put a scripted one in its place. Thread
// safety: Fleet may be called from any thread. Listener methods are called on link threads, one at
// a time for one submission, and must only post.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/domain.h"
#include "common/siphash.h"

namespace fathom::master {

// One life of a worker process: a restarted worker has another incarnation.
struct WorkerKey {
  std::string id;
  std::string incarnation;  // hex
  bool operator==(const WorkerKey&) const = default;
};

// What becomes of a model on a worker.
enum class ModelPhase : uint8_t { kLoading, kWarming, kReady, kUnloading, kFailed };

// How one of a worker's models fares, or all of them.
struct ModelFigures {
  int64_t credit = 0;   // token cost this master may have in flight there
  int32_t waiting = 0;  // from the last heartbeat, all masters'
  int32_t running = 0;
  int32_t free_blocks = 0;
  int32_t total_blocks = 0;
  float tokens_per_second = 0;
  int64_t queued_tokens = 0;            // prompt tokens to compute, without cached ones
  float prefill_tokens_per_second = 0;  // 0: not known
  float step_seconds = 0;               // of steps that only decode
};

struct ServedModel {
  std::string name;
  ModelPhase phase = ModelPhase::kReady;
  std::string config_digest;
  std::string tokenizer_digest;
  int32_t context_length = 0;
  int32_t vocab_size = 0;
  int64_t kv_tokens = 0;
  int32_t kv_block_tokens = 0;
  int32_t max_sequences = 0;
  std::string kv_scope;  // names of prefix blocks are equal where it is; empty: no prefix cache
  // Where the worker tells its models apart; else its own figures are this model's.
  std::optional<ModelFigures> figures;
  absl::Status failure;      // of kFailed
  uint64_t failures = 0;     // likewise: the worker's count by then
  int64_t bytes_done = 0;    // of kLoading, where known
  int64_t bytes_total = 0;   // likewise
  int64_t memory_bytes = 0;  // it takes; 0: not known

  bool serving() const { return phase == ModelPhase::kReady || phase == ModelPhase::kUnloading; }
};

enum class WorkerState : uint8_t { kLoading, kReady, kDraining, kDead };

struct WorkerInfo {
  WorkerKey key;
  WorkerState state = WorkerState::kLoading;
  std::string build;
  std::string device;        // kind and name
  int64_t linked_at_ns = 0;  // monotonic
  std::map<std::string, std::string> labels;
  std::vector<ServedModel> models;
  ModelFigures figures;        // of all its models
  int64_t in_flight_cost = 0;  // token cost this master has there
  int32_t in_flight = 0;       // submissions it has
  float saturation = 0;
  int64_t free_memory_bytes = 0;  // that further models may take
  int64_t heard_ns = 0;           // when the last heartbeat came; monotonic

  const ModelFigures& FiguresOf(const ServedModel& model) const {
    return model.figures ? *model.figures : figures;
  }
};

// Requests for a model of that pool may run there.
inline bool IsOfPool(const WorkerInfo& worker, std::string_view pool) {
  if (pool.empty()) return true;
  const auto label = worker.labels.find("pool");
  return label != worker.labels.end() && label->second == pool;
}

// What changed: who is there and whether they take work, or only how they fare, which is told by
// some worker's heartbeat every moment in a large fleet.
enum class FleetNews : uint8_t { kFigures, kMembers };

// Immutable; a new one replaces it when anything changes.
struct FleetSnapshot {
  uint64_t version = 0;
  std::vector<WorkerInfo> workers;
};

// News of a worker's prefix cache, in the order: begins, evicted, stored, ends.
struct CacheUpdate {
  bool resync_begins = false;  // from here on the whole cache is told
  bool resync_ends = false;    // what was not told since is gone
  std::vector<Hash128> stored;
  std::vector<Hash128> evicted;
};

struct SubmissionChoice {
  int32_t index = 0;
  std::vector<TokenId> tokens;  // it has these already
};

struct Submission {
  std::string request_id;
  uint32_t attempt = 1;
  std::string model;
  int32_t priority = 0;
  uint64_t tenant_hash = 0;
  int32_t tenant_weight = 1;
  int64_t cost = 0;  // in tokens
  absl::Duration remaining = absl::InfiniteDuration();
  std::string cache_salt;      // 32 bytes, secret
  std::string resume_context;  // what a claim by another master must carry; empty: none may
  std::string fingerprint;     // 32 bytes; what the worker calls it if it crashes
  int32_t crashes = 0;         // uncleared; more than 0: the worker runs nothing new beside it
  std::vector<TokenId> prompt;
  std::vector<SubmissionChoice> choices;
  SamplingParams sampling;
  StopConditions stop;
  LogprobParams logprobs;
  std::optional<GrammarSpec> grammar;
};

struct SubmissionOutput {
  uint32_t attempt = 0;
  int32_t choice = 0;
  int32_t first_index = 0;
  std::vector<TokenId> tokens;
  std::vector<PositionLogprobs> logprobs;
  std::vector<PositionLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  std::string error;
  bool bad_request = false;  // with kError: it would fail on any worker
  bool taken_over = false;   // with kCancelled: another master has claimed the request
  int32_t cached_tokens = 0;
};

// How a worker came to be lost.
enum class LossKind : uint8_t {
  kCrash,   // by its own word, or its step is past its deadline: what it ran may be the cause
  kBroken,  // its streams broke: killed, or the network between
  kSilent,  // nothing came any more
  kLeft,    // it left or the link was ended on purpose
};

struct WorkerLoss {
  LossKind kind = LossKind::kBroken;
  absl::Status reason;
};

class SubmissionListener {
 public:
  virtual ~SubmissionListener() = default;
  virtual void OnAccepted(uint32_t attempt) = 0;
  // RESOURCE_EXHAUSTED may be tried on another worker, INVALID_ARGUMENT may not. ABORTED: something
  // that must be alone runs there, some other master's maybe.
  virtual void OnRejected(uint32_t attempt, const absl::Status& status,
                          absl::Duration retry_after) = 0;
  virtual void OnOutput(SubmissionOutput output) = 0;
  // The worker is gone; nothing more comes for this attempt.
  virtual void OnWorkerLost(uint32_t attempt, const WorkerLoss& loss) = 0;
};

// What was on a worker that crashed, whichever master's.
struct LastRun {
  std::string fingerprint;
  int32_t crashes = 0;  // as in Submission, without this one
};

// A request that other masters may have on some worker, to be taken over.
struct ClaimRequest {
  std::string request_id;
  std::string model;  // what runs on another is given up
  std::string resume_context;
  int64_t cost = 0;  // in tokens
};

// A request that a worker has handed over.
struct ClaimedWork {
  WorkerKey worker;
  uint32_t attempt = 0;
  std::vector<SubmissionOutput> choices;  // all tokens of each so far
};

struct ClaimOutcome {
  std::vector<ClaimedWork> found;  // several only where a master and a worker lost each other
  uint32_t attempt = 0;            // the highest that was seen
  bool other_context = false;      // a request of this id is another one
};

// A model that a worker is to load beside those it has.
struct LoadOrder {
  std::string model;      // its name there
  std::string directory;  // as the worker reaches it
  int64_t kv_cache_bytes = 0;
  std::string config_digest;  // another one is refused
  std::string tokenizer_digest;
};

class Fleet {
 public:
  virtual ~Fleet() = default;
  virtual std::shared_ptr<const FleetSnapshot> Snapshot() const = 0;
  // Called (on any thread, no lock held) after a worker came, went or told how it fares; a Submit
  // of the caller's own changes the snapshot without a call. Set once, before work starts.
  virtual void OnChange(std::function<void(FleetNews)> callback) = 0;
  // UNAVAILABLE when that worker is gone, RESOURCE_EXHAUSTED when its outbox is full; then the
  // listener hears nothing. The listener is released after the last choice finished, a rejection, a
  // loss or Cancel of all choices.
  virtual absl::Status Submit(const WorkerKey& worker, Submission submission,
                              std::shared_ptr<SubmissionListener> listener) = 0;
  // Ends these choices (all when empty) of attempts up to `attempt`; outputs under way may still
  // arrive.
  virtual void Cancel(const WorkerKey& worker, const std::string& request_id, uint32_t attempt,
                      std::vector<int32_t> choices) = 0;
  // Asks every worker for a request. `done` is called once, on any thread, when all have answered
  // or a moment is over; the listener may hear of what was found before. What was found is this
  // master's from then on, as if it had submitted it.
  virtual void Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
                     std::function<void(ClaimOutcome)> done) = 0;
  // Asks a worker, whichever life of it is linked, to leave. NOT_FOUND when none is.
  virtual absl::Status Drain(const std::string& worker_id) = 0;
  // Orders of the leader in the term that has this epoch, which no worker takes that has heard of a
  // later one; the fleet tells what becomes of them. NOT_FOUND when that worker is gone.
  virtual absl::Status Load(const WorkerKey& /*worker*/, const LoadOrder& /*order*/,
                            uint64_t /*epoch*/) {
    return absl::UnimplementedError("this fleet loads no models");
  }
  virtual absl::Status Unload(const WorkerKey& /*worker*/, const std::string& /*model*/,
                              uint64_t /*epoch*/) {
    return absl::UnimplementedError("this fleet unloads no models");
  }
  // Called (on any thread, no lock held), one at a time for one worker, with news of its prefix
  // cache. Set once, before work starts.
  virtual void OnCacheUpdate(
      std::function<void(const WorkerKey&, const CacheUpdate&)> /*callback*/) {}
  // What must not run again for a while, by a name of 32 bytes: every master of these workers is
  // told, whenever it comes.
  virtual void Condemn(const std::string& /*name*/, absl::Duration /*remaining*/) {}
  // Called (on any thread, no lock held) with what other masters have condemned. Set once.
  virtual void OnCondemned(
      std::function<void(const std::string& name, absl::Duration remaining)> /*callback*/) {}
  // Called (on any thread, no lock held) with what a worker ran that says that it crashes, before
  // any listener hears of it. Set once.
  virtual void OnLastWords(std::function<void(const std::vector<LastRun>&)> /*callback*/) {}
  // Token cost that waits for workers of this model: workers share their credit among masters in
  // proportion.
  virtual void ReportBacklog(const std::string& /*model*/, int64_t /*cost*/) {}
};

}  // namespace fathom::master
