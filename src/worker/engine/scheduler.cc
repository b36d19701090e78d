#include "worker/engine/scheduler.h"

#include <algorithm>

#include "common/check.h"

namespace fathom::worker {
namespace {

// Tokens of the common prompt that `s` can take from a sibling; one is left to compute.
int32_t ForkLength(const Sequence& s) { return std::min(s.prompt_len, s.length() - 1); }

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, KvBlocks* kv) : limits_(limits), kv_(kv) {
  for (int32_t slot = limits.max_sequences - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Scheduler::~Scheduler() {
  for (Sequence* s : running_) GiveBack(s);
  for (Sequence* s : ended_) GiveBack(s);
  FATHOM_CHECK(static_cast<int32_t>(free_slots_.size()) == limits_.max_sequences, "a slot leaked");
}

void Scheduler::Enqueue(RequestState* request) {
  const EngineRequest& r = request->request;
  const int64_t cost = static_cast<int64_t>(r.prompt.size()) +
                       static_cast<int64_t>(r.stop.max_tokens) * request->num_live();
  bool first = true;
  for (const auto& s : request->sequences) {
    if (s->state != SequenceState::kNew) continue;
    // Choices share the first one's prefill.
    const int32_t cached = s->wants_prompt_logprobs ? 0
                           : first                  ? kv_->CachedTokens(s.get())
                                                    : ForkLength(*s);
    BeginWait(s.get(), s->length() - cached);
    first = false;
  }
  queue_.Push(request, r.priority, r.tenant_hash, cost, r.tenant_weight);
}

void Scheduler::Plan(uint64_t serial, uint64_t retired, StepPlan* plan) {
  plan->Clear();
  Step step{serial,          retired, plan, limits_.max_step_tokens, limits_.max_logit_rows,
            RecoveryTokens()};
  PlanRunning(&step);
  if (!step.short_of_blocks) Admit(&step);
  CountPrefill();
}

int32_t Scheduler::RecoveryTokens() const {
  const bool others = std::any_of(running_.begin(), running_.end(), [](const Sequence* s) {
    return s->HasWork() && s->scheduled >= s->recovery_len;
  });
  return others ? std::max(1, limits_.max_step_tokens / 2) : limits_.max_step_tokens;
}

void Scheduler::CountPrefill() {
  prefill_tokens_ = 0;
  for (const Sequence* s : running_) {
    const auto left = static_cast<int32_t>(s->tokens.size()) - s->computed;
    if (left > 1) prefill_tokens_ += left;
  }
}

void Scheduler::BeginWait(Sequence* s, int32_t expected_tokens) {
  s->state = SequenceState::kWaiting;
  s->expected_tokens = expected_tokens;
  waiting_tokens_ += expected_tokens;
  ++num_waiting_;
}

void Scheduler::EndWait(Sequence* s) {
  waiting_tokens_ -= s->expected_tokens;
  --num_waiting_;
}

void Scheduler::PlanRunning(Step* step) {
  for (size_t i = running_.size(); i-- > 0;) {
    Sequence* s = running_[i];
    if (s->preempt && !s->InFlight(step->retired)) Preempt(s);
  }
  int32_t decodes = 0;
  for (Sequence* s : running_) {
    s->settled = s->scheduled;
    if (s->HasWork() && s->length() - s->scheduled == 1) ++decodes;
  }
  // Preemption takes away younger ones only, behind i.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* s = running_[i];
    if (s->preempt) step->short_of_blocks = true;
    if (s->preempt || !s->HasWork()) continue;
    const bool decode = s->length() - s->scheduled == 1;
    if (decode) --decodes;
    Schedule(s, decode ? 0 : decodes, step);
  }
}

// Plans the next chunk of a running sequence, making room when it must. `reserved` tokens and logit
// rows are left for decodes.
bool Scheduler::Schedule(Sequence* s, int32_t reserved, Step* step) {
  const int32_t rows_left = step->rows_left - reserved;
  int32_t count = std::min(s->length() - s->scheduled, step->tokens_left - reserved);
  if (s->wants_prompt_logprobs) count = std::min(count, rows_left);
  const bool recovers = s->scheduled < s->recovery_len;
  if (recovers) count = std::min(count, step->recovery_left);
  if (count <= 0 || rows_left <= 0) return false;
  if (!kv_->TryExtend(s, s->scheduled + count)) {
    step->short_of_blocks = true;
    MakeRoom(*s, s->scheduled + count, *step);
    count = std::min(count, kv_->MaxExtent(*s) - s->scheduled);
    if (count <= 0) return false;
    const bool extended = kv_->TryExtend(s, s->scheduled + count);
    FATHOM_CHECK(extended, "blocks that were available are gone");
  }
  PlannedChunk chunk{s, s->scheduled, count, s->scheduled + count == s->length(), 0};
  if (s->wants_prompt_logprobs) {  // of the chunk's tokens, those followed by a prompt token
    chunk.num_scored = std::clamp(s->prompt_len - 1 - s->scheduled, 0, count);
  }
  s->scheduled += count;
  s->pending += chunk.samples ? 1 : 0;
  s->last_step = step->serial;
  const int32_t rows = chunk.num_scored + (chunk.samples ? 1 : 0);
  step->plan->chunks.push_back(chunk);
  step->plan->num_tokens += count;
  step->plan->num_logit_rows += rows;
  step->tokens_left -= count;
  if (recovers) step->recovery_left -= count;
  step->rows_left -= rows;
  return true;
}

// Takes blocks from the youngest until `s` has what it needs, or will have once those whose steps
// are in flight have given theirs back.
void Scheduler::MakeRoom(const Sequence& s, int32_t num_tokens, const Step& step) {
  std::vector<int32_t> coming(kv_->num_groups(), 0);
  for (const Sequence* e : ended_) kv_->CountOwned(*e, &coming);
  for (size_t i = running_.size(); i-- > 0 && Older()(&s, running_[i]);) {
    if (kv_->CanExtend(s, num_tokens, coming, 0)) return;
    Sequence* victim = running_[i];
    if (victim->InFlight(step.retired)) {
      victim->preempt = true;
      kv_->CountOwned(*victim, &coming);
    } else {
      Preempt(victim);
    }
  }
}

void Scheduler::Preempt(Sequence* s) {
  FATHOM_CHECK(s->pending == 0 && s->computed == s->scheduled, "preempting with a step in flight");
  running_.erase(std::find(running_.begin(), running_.end(), s));
  GiveBack(s);
  BeginWait(s, s->length());
  ready_.insert(s);
  ++num_preemptions_;
}

void Scheduler::Admit(Step* step) {
  while (step->tokens_left > 0 && step->rows_left > 0 && !free_slots_.empty()) {
    Sequence* fork_from = nullptr;
    Sequence* s = NextToAdmit(&fork_from);
    if (s == nullptr || queue_.TopPriority() < s->request->request.priority) {
      RequestState* request = queue_.Pop();
      if (request == nullptr) return;
      for (const auto& sequence : request->sequences) {
        sequence->rank = next_rank_++;
        if (sequence->state == SequenceState::kWaiting) ready_.insert(sequence.get());
      }
      continue;
    }
    if (s->recovery_len > 0 && step->recovery_left <= 0) return;
    if (!TryAdmit(s, fork_from, step)) return;
  }
}

// The oldest that need not wait for a sibling's prefill; nullptr when there is none.
Sequence* Scheduler::NextToAdmit(Sequence** fork_from) {
  for (Sequence* s : ready_) {
    *fork_from = nullptr;
    if (s->wants_prompt_logprobs) return s;
    bool sibling_prefills = false;
    for (const auto& other : s->request->sequences) {
      if (other->state != SequenceState::kRunning || other->preempt) continue;
      if (other->settled >= ForkLength(*s)) *fork_from = other.get();
      sibling_prefills |= other->settled < other->prompt_len - 1;
    }
    if (*fork_from != nullptr || !sibling_prefills) return s;
  }
  return nullptr;
}

// Gives `s` what can be reused of the prefix; returns its length in tokens.
int32_t Scheduler::Reuse(Sequence* s, Sequence* fork_from, Step* step) {
  if (s->wants_prompt_logprobs) {
    s->tables.resize(kv_->num_groups());
    return 0;
  }
  const int32_t cached = kv_->AdoptPrefix(s);
  const int32_t wanted = ForkLength(*s);
  if (fork_from == nullptr || cached >= wanted) return cached;
  kv_->Release(s);
  if (kv_->Fork(*fork_from, wanted, s, &step->plan->copies)) return wanted;
  return kv_->AdoptPrefix(s);
}

bool Scheduler::TryAdmit(Sequence* s, Sequence* fork_from, Step* step) {
  if (turned_away_.sequence == s && kv_->num_available() <= turned_away_.available &&
      num_running() >= turned_away_.running) {
    return false;
  }
  const size_t copies = step->plan->copies.size();
  const int32_t reused = Reuse(s, fork_from, step);
  // One block for each who runs is kept back: letting somebody in should not push others out.
  if (!kv_->CanExtend(*s, s->length() + 1, {}, num_running())) {
    kv_->Release(s);
    step->plan->copies.resize(copies);
    turned_away_ = {s, kv_->num_available(), num_running()};
    return false;
  }
  turned_away_ = {};
  ready_.erase(s);
  EndWait(s);
  s->state = SequenceState::kRunning;
  s->slot = free_slots_.back();
  free_slots_.pop_back();
  s->computed = s->scheduled = reused;
  if (!s->cached_tokens.has_value()) s->cached_tokens = std::min(reused, s->prompt_len);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), s, Older()), s);
  s->settled = 0;
  const bool planned = Schedule(s, 0, step);
  FATHOM_CHECK(planned, "admitted without a chunk");
  return true;
}

void Scheduler::End(Sequence* s, uint64_t retired) {
  if (s->state == SequenceState::kRunning) {
    running_.erase(std::find(running_.begin(), running_.end(), s));
    if (s->InFlight(retired)) {
      ended_.push_back(s);
    } else {
      GiveBack(s);
    }
  } else if (s->state == SequenceState::kWaiting) {
    ready_.erase(s);
    EndWait(s);
  }
  s->state = SequenceState::kEnded;  // from kNew as well
  if (turned_away_.sequence == s) turned_away_ = {};
  if (s->request->num_live() == 0) queue_.Erase(s->request);
}

void Scheduler::Retire(uint64_t retired) {
  std::erase_if(ended_, [&](Sequence* s) {
    if (s->InFlight(retired)) return false;
    GiveBack(s);
    return true;
  });
  CountPrefill();
}

void Scheduler::GiveBack(Sequence* s) {
  kv_->Release(s);
  free_slots_.push_back(s->slot);
  s->slot = -1;
  s->slot_ready = false;
  s->preempt = false;
  s->computed = s->scheduled = s->settled = s->pending = 0;
  s->last_step = 0;
}

void Scheduler::CheckIntegrity() const {
  std::vector<const Sequence*> holders(running_.begin(), running_.end());
  holders.insert(holders.end(), ended_.begin(), ended_.end());
  kv_->CheckIntegrity(holders);
  std::vector<bool> taken(limits_.max_sequences, false);
  const auto take = [&](int32_t slot) {
    FATHOM_CHECK(slot >= 0 && !taken[slot], "a slot is held twice or is free and held");
    taken[slot] = true;
  };
  for (const Sequence* s : holders) take(s->slot);
  for (const int32_t slot : free_slots_) take(slot);
  FATHOM_CHECK(std::find(taken.begin(), taken.end(), false) == taken.end(), "a slot leaked");
}

}  // namespace fathom::worker
