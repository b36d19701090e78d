#pragma once

// Who computes what in the next step. Pure policy over sequences and blocks: no clock, no I/O, no
// device; the same calls give the same plans.
//
// Rules: sequences of a more urgent priority come first, then older ones (by admission); a decode
// keeps its place in every step, prefill takes chunks of what is left; admission stops at the first
// who does not fit, so nobody starves. When blocks run out the youngest gives its own back and is
// recomputed later; since the oldest can push all others aside and any request fits an empty pool,
// the oldest always goes on. A sequence gives blocks back only when the last step it is part of has
// retired, hence after at least one chunk. Choices of one request share the first one's prefill.
// Sequences that come from a worker that was lost compute again what was computed there, with at
// most half of a step's tokens while anyone else runs: the others' steps must not grow much. Thread
// safety: none; the engine thread owns it.

#include <cstdint>
#include <functional>
#include <set>
#include <vector>

#include "worker/engine/fair_queue.h"
#include "worker/engine/kv_blocks.h"
#include "worker/engine/sequence.h"

namespace fathom::worker {

struct SchedulerLimits {
  int32_t max_sequences = 0;    // slots
  int32_t max_step_tokens = 0;  // >= max_sequences
  int32_t max_logit_rows = 0;   // >= max_sequences
};

// Tokens [first, first + count) of a sequence.
struct PlannedChunk {
  Sequence* sequence = nullptr;
  int32_t first = 0;
  int32_t count = 0;
  bool samples = false;    // its last token's logits give the next token
  int32_t num_scored = 0;  // prompt logprobs: the first `num_scored` tokens' logits are scored
};

struct StepPlan {
  std::vector<PlannedChunk> chunks;
  std::vector<BlockCopy> copies;
  int32_t num_tokens = 0;
  int32_t num_logit_rows = 0;
  void Clear() {
    chunks.clear();
    copies.clear();
    num_tokens = num_logit_rows = 0;
  }
};

class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, KvBlocks* kv);
  ~Scheduler();

  // Lets the request's sequences wait for admission.
  void Enqueue(RequestState* request);

  // Plans step `step`, knowing that steps up to `retired` have retired, and advances `scheduled`,
  // `pending` and `last_step` of those in it.
  void Plan(uint64_t step, uint64_t retired, StepPlan* plan);

  // Ends a sequence: it is never planned again; slot and blocks come back when its last step has
  // retired.
  void End(Sequence* sequence, uint64_t retired);
  // Gives back what ended sequences held up to this step.
  void Retire(uint64_t retired);

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  // Sequences not computing: queued, or preempted.
  int32_t num_waiting() const { return num_waiting_; }
  // Requests none of whose sequences has been let in.
  size_t num_queued_requests() const { return queue_.size(); }
  // Tokens to compute before those who wait have their first: without cached ones, as they were
  // when a sequence began to wait.
  int64_t queued_tokens() const { return waiting_tokens_ + prefill_tokens_; }
  int64_t num_preemptions() const { return num_preemptions_; }
  const std::vector<Sequence*>& running() const { return running_; }
  // CHECKs blocks and slots against who holds them; for idle moments and tests.
  void CheckIntegrity() const;

 private:
  struct Older {
    bool operator()(const Sequence* a, const Sequence* b) const {
      const int32_t pa = a->request->request.priority;
      const int32_t pb = b->request->request.priority;
      return pa != pb ? pa < pb : a->rank < b->rank;
    }
  };
  struct Step {
    uint64_t serial;
    uint64_t retired;
    StepPlan* plan;
    int32_t tokens_left;
    int32_t rows_left;
    int32_t recovery_left;  // of tokens_left, for those who recover
    bool short_of_blocks = false;
  };

  void PlanRunning(Step* step);
  void Admit(Step* step);
  Sequence* NextToAdmit(Sequence** fork_from);
  int32_t Reuse(Sequence* s, Sequence* fork_from, Step* step);
  bool TryAdmit(Sequence* s, Sequence* fork_from, Step* step);
  bool Schedule(Sequence* s, int32_t reserved, Step* step);
  void MakeRoom(const Sequence& s, int32_t num_tokens, const Step& step);
  void Preempt(Sequence* s);
  void BeginWait(Sequence* s, int32_t expected_tokens);
  void EndWait(Sequence* s);
  void CountPrefill();
  int32_t RecoveryTokens() const;
  void GiveBack(Sequence* s);

  const SchedulerLimits limits_;
  KvBlocks* const kv_;
  FairQueue queue_;                   // requests none of whose sequences has been admitted
  std::set<Sequence*, Older> ready_;  // popped or preempted, to be admitted in this order
  std::vector<Sequence*> running_;    // oldest first
  std::vector<Sequence*> ended_;      // their last step is in flight
  std::vector<int32_t> free_slots_;
  // Who could not be let in, and what there was then: no use trying again with no more than that.
  struct {
    const Sequence* sequence = nullptr;
    int32_t available = 0;
    int32_t running = 0;
  } turned_away_;
  uint64_t next_rank_ = 0;
  int32_t num_waiting_ = 0;
  int64_t waiting_tokens_ = 0;  // expected_tokens of those who wait
  int64_t prefill_tokens_ = 0;  // not computed yet, of those who run
  int64_t num_preemptions_ = 0;
};

}  // namespace fathom::worker
