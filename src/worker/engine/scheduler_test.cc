#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace fathom::worker {
namespace {

// Plays the engine's part: every step retires before the one after the next is planned, and gives
// token 9 to everyone who samples.
class SchedulerTest : public testing::Test {
 protected:
  struct Limits {
    int32_t blocks = 100;
    int32_t slots = 4;
    int32_t tokens = 16;
    int32_t rows = 16;
    int32_t window = 0;
  };

  void Start(const Limits& l) {
    KvSpec spec;
    spec.block_tokens = 4;
    spec.groups.push_back(
        {l.window > 0 ? KvGroupKind::kSlidingWindow : KvGroupKind::kFull, {0}, l.window, 1, 0});
    scheduler_.reset();
    kv_ = std::make_unique<KvBlocks>(spec, KvPlan{{l.blocks}, l.slots, 64}, true);
    scheduler_ = std::make_unique<Scheduler>(SchedulerLimits{l.slots, l.tokens, l.rows}, kv_.get());
  }
  void TearDown() override { scheduler_.reset(); }

  RequestState* Ask(int32_t prompt_len, int32_t max_tokens, int32_t choices = 1,
                    int32_t first_token = 100) {
    requests_.push_back(std::make_unique<RequestState>());
    RequestState* r = requests_.back().get();
    r->request.prompt.resize(prompt_len);
    std::iota(r->request.prompt.begin(), r->request.prompt.end(), first_token);
    r->request.stop.max_tokens = max_tokens;
    for (int32_t c = 0; c < choices; ++c) {
      auto s = std::make_unique<Sequence>();
      s->request = r;
      s->choice = c;
      s->tokens = r->request.prompt;
      s->prompt_len = prompt_len;
      s->max_len = prompt_len + max_tokens;
      r->sequences.push_back(std::move(s));
    }
    return r;
  }
  RequestState* Enqueue(RequestState* r) {
    scheduler_->Enqueue(r);
    return r;
  }

  const StepPlan& Plan() {
    StepPlan& plan = plans_[++serial_ % 2];
    scheduler_->Plan(serial_, retired_, &plan);
    return plan;
  }
  // Retires the oldest step in flight.
  void Retire() {
    const StepPlan& plan = plans_[++retired_ % 2];
    for (const PlannedChunk& c : plan.chunks) {
      Sequence* s = c.sequence;
      if (s->state == SequenceState::kEnded) continue;
      s->computed += c.count;
      if (c.samples) {
        --s->pending;
        s->tokens.push_back(9);
      }
      kv_->Commit(s);
      if (static_cast<int32_t>(s->tokens.size()) >= s->max_len) scheduler_->End(s, retired_);
    }
    scheduler_->Retire(retired_);
    scheduler_->CheckIntegrity();
  }
  const StepPlan& Next() {  // one step ahead, as the engine does
    const StepPlan& plan = Plan();
    if (serial_ > 1) Retire();
    return plan;
  }

  std::vector<std::unique_ptr<RequestState>> requests_;
  std::unique_ptr<KvBlocks> kv_;
  std::unique_ptr<Scheduler> scheduler_;
  StepPlan plans_[2];
  uint64_t serial_ = 0;
  uint64_t retired_ = 0;
};

TEST_F(SchedulerTest, PrefillComesInChunksAndOnlyTheLastSamples) {
  Start({.tokens = 16});
  Enqueue(Ask(37, 4));
  const int32_t counts[] = {16, 16, 5, 1};
  for (int i = 0; i < 4; ++i) {
    const StepPlan& plan = Next();
    ASSERT_EQ(plan.chunks.size(), 1U);
    EXPECT_EQ(plan.chunks[0].count, counts[i]);
    EXPECT_EQ(plan.chunks[0].samples, i >= 2);
    EXPECT_EQ(plan.num_logit_rows, i >= 2 ? 1 : 0);
  }
}

TEST_F(SchedulerTest, QueuedTokensAreThoseStillToCompute) {
  Start({.tokens = 16});
  Enqueue(Ask(37, 2));
  EXPECT_EQ(scheduler_->queued_tokens(), 37);
  Enqueue(Ask(21, 2, /*choices=*/3, /*first_token=*/500));
  EXPECT_EQ(scheduler_->queued_tokens(), 37 + 21 + 1 + 1);  // one prefill for all choices
  Next();
  Next();
  Next();
  EXPECT_EQ(scheduler_->queued_tokens(), 37 - 32 + 23);
  while (!Next().chunks.empty()) {
  }
  EXPECT_EQ(scheduler_->queued_tokens(), 0);
  Enqueue(Ask(37, 2));
  EXPECT_EQ(scheduler_->queued_tokens(), 1) << "the rest is cached";
  scheduler_->End(requests_.back()->sequences[0].get(), retired_);
  EXPECT_EQ(scheduler_->queued_tokens(), 0);
}

TEST_F(SchedulerTest, DecodesKeepTheirPlaceBesideALongPrefill) {
  Start({.tokens = 16});
  RequestState* talker = Enqueue(Ask(3, 20));
  Next();
  Enqueue(Ask(100, 4, 1, 500));
  for (int i = 0; i < 6; ++i) {
    const StepPlan& plan = Next();
    ASSERT_EQ(plan.chunks.size(), 2U);
    EXPECT_EQ(plan.chunks[0].sequence, talker->sequences[0].get());
    EXPECT_EQ(plan.chunks[0].count, 1);
    EXPECT_EQ(plan.chunks[1].count, 15);
  }
}

TEST_F(SchedulerTest, AnOlderPrefillLeavesRoomForYoungerDecodes) {
  Start({.tokens = 8});
  Enqueue(Ask(60, 4));
  Next();
  // Admitted beside the prefill once there is room in a step; from then on it decodes in each.
  RequestState* young = Ask(1, 20, 1, 900);
  young->request.priority = -1;
  Enqueue(young);
  bool decoding = false;
  for (int i = 0; i < 20; ++i) {
    bool in_step = false;
    for (const PlannedChunk& c : Next().chunks) in_step |= c.sequence->request == young;
    if (decoding && i < 9) {
      EXPECT_TRUE(in_step) << i;
    }
    decoding |= in_step;
  }
  EXPECT_TRUE(decoding);
}

TEST_F(SchedulerTest, RecoveriesTakeHalfOfAStepWhileOthersRun) {
  Start({.tokens = 16});
  RequestState* other = Enqueue(Ask(4, 20));
  Plan();
  Retire();
  for (int i = 0; i < 2; ++i) {
    RequestState* lost = Ask(30, 20, 1, 1000 + 100 * i);
    lost->sequences[0]->recovery_len = 30;
    Enqueue(lost);
  }
  // One at a time, in their order, beside a decode that keeps its place.
  int32_t computed[2] = {};
  for (int step = 0; step < 8; ++step) {
    const StepPlan& plan = Plan();
    int32_t recovery = 0;
    bool decodes = false;
    for (const PlannedChunk& c : plan.chunks) {
      if (c.sequence->request == other) {
        decodes = true;
      } else if (c.first < 30) {
        recovery += c.count;
        computed[c.sequence->tokens[0] == 1100] += c.count;
      }
    }
    EXPECT_TRUE(decodes);
    EXPECT_LE(recovery, 8);
    EXPECT_TRUE(computed[0] == 30 || computed[1] == 0);
    Retire();
  }
  EXPECT_EQ(computed[0], 30);
  EXPECT_GT(computed[1], 0);
}

TEST_F(SchedulerTest, ARecoveryAloneTakesTheWholeStep) {
  Start({.tokens = 16});
  RequestState* lost = Ask(30, 20);
  lost->sequences[0]->recovery_len = 30;
  Enqueue(lost);
  EXPECT_EQ(Plan().num_tokens, 16);
}

TEST_F(SchedulerTest, NothingIsPlannedBeyondTheLastToken) {
  Start({});
  Enqueue(Ask(2, 2));
  EXPECT_EQ(Next().chunks.size(), 1U);  // samples the first
  EXPECT_EQ(Next().chunks.size(), 1U);  // samples the second
  EXPECT_EQ(Next().chunks.size(), 0U);
  EXPECT_EQ(scheduler_->num_running(), 0);
}

TEST_F(SchedulerTest, SlotsLimitWhoRuns) {
  Start({.slots = 2});
  for (int i = 0; i < 4; ++i) Enqueue(Ask(2, 3, 1, 100 * (i + 1)));
  Next();
  EXPECT_EQ(scheduler_->num_running(), 2);
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  for (int i = 0; i < 10; ++i) Next();
  EXPECT_EQ(scheduler_->num_waiting(), 0);
  EXPECT_EQ(kv_->num_available(), 100);
}

TEST_F(SchedulerTest, TheYoungestGivesWayOnceItsStepHasRetired) {
  Start({.blocks = 10, .tokens = 64});
  RequestState* old = Enqueue(Ask(12, 24));            // up to 9 blocks
  RequestState* young = Enqueue(Ask(12, 24, 1, 300));  // likewise
  int64_t preempted_at = -1;
  for (int i = 0; i < 40 && old->num_live() > 0; ++i) {
    Next();
    if (preempted_at < 0 && scheduler_->num_preemptions() > 0) {
      preempted_at = i;
      EXPECT_EQ(young->sequences[0]->state, SequenceState::kWaiting);
      EXPECT_GT(young->sequences[0]->num_output(), 0);
    }
  }
  EXPECT_GT(preempted_at, 0);
  EXPECT_EQ(old->num_live(), 0);
  for (int i = 0; i < 60; ++i) Next();
  EXPECT_EQ(young->num_live(), 0);
  EXPECT_EQ(young->sequences[0]->num_output(), 24);
  EXPECT_EQ(kv_->num_available(), 10);
}

TEST_F(SchedulerTest, ChoicesShareOnePrefillAndCopyTheTail) {
  Start({.tokens = 64});
  RequestState* r = Enqueue(Ask(10, 6, 3));
  EXPECT_EQ(Plan().num_tokens, 10);  // the first alone
  const StepPlan& plan = Plan();
  // The two others take the two full blocks and a copy of the third, and compute one token.
  ASSERT_EQ(plan.chunks.size(), 3U);
  EXPECT_EQ(plan.num_tokens, 3);
  ASSERT_EQ(plan.copies.size(), 2U);
  const auto& blocks0 = r->sequences[0]->tables[0].blocks;
  const auto& blocks1 = r->sequences[1]->tables[0].blocks;
  EXPECT_EQ(blocks0[0].id(), blocks1[0].id());
  EXPECT_EQ(blocks0[1].id(), blocks1[1].id());
  EXPECT_NE(blocks0[2].id(), blocks1[2].id());
  EXPECT_EQ(plan.copies[0].source, blocks0[2].id());
  EXPECT_EQ(plan.copies[0].destination, blocks1[2].id());
  Retire();
  for (int i = 0; i < 12; ++i) Next();
  EXPECT_EQ(r->num_live(), 0);
  EXPECT_EQ(kv_->num_available(), 100);
}

TEST_F(SchedulerTest, ASecondAskReusesBlocksUpToTheLastToken) {
  Start({.tokens = 64});
  Enqueue(Ask(16, 1));
  for (int i = 0; i < 4; ++i) Next();
  Enqueue(Ask(16, 1));
  const StepPlan& plan = Next();
  ASSERT_EQ(plan.chunks.size(), 1U);
  EXPECT_EQ(plan.chunks[0].first, 12);  // 16 is capped at 15, and 15 aligned to a block
  EXPECT_EQ(plan.chunks[0].count, 4);
}

TEST_F(SchedulerTest, OtherSaltsShareNothing) {
  Start({.tokens = 64});
  Enqueue(Ask(16, 1));
  for (int i = 0; i < 4; ++i) Next();
  RequestState* r = Ask(16, 1);
  r->prefix_scope.root = {1, 1};
  Enqueue(r);
  EXPECT_EQ(Next().chunks[0].count, 16);
}

TEST_F(SchedulerTest, AWindowKeepsOnlyWhatItSees) {
  Start({.tokens = 64, .window = 6});
  RequestState* r = Enqueue(Ask(9, 40));
  for (int i = 0; i < 30; ++i) {
    Next();
    int32_t held = 0;
    for (const BlockRef& b : r->sequences[0]->tables[0].blocks) held += b ? 1 : 0;
    EXPECT_LE(held, 4) << i;
  }
}

TEST_F(SchedulerTest, EndingInFlightHoldsBlocksUntilTheStepRetires) {
  Start({.tokens = 64});
  RequestState* r = Enqueue(Ask(16, 10));
  Plan();
  Plan();
  Retire();
  scheduler_->End(r->sequences[0].get(), retired_);
  EXPECT_LT(kv_->num_available(), 100);
  EXPECT_EQ(scheduler_->num_running(), 0);
  Retire();
  EXPECT_EQ(kv_->num_available(), 100);
}

TEST_F(SchedulerTest, PromptScoresFitTheLogitRows) {
  Start({.tokens = 64, .rows = 7});
  RequestState* r = Ask(20, 2);
  r->sequences[0]->wants_prompt_logprobs = true;
  Enqueue(r);
  int32_t scored = 0;
  bool sampled = false;
  while (!sampled) {
    const StepPlan& plan = Next();
    ASSERT_EQ(plan.chunks.size(), 1U);
    EXPECT_LE(plan.num_logit_rows, 7);
    scored += plan.chunks[0].num_scored;
    sampled = plan.chunks[0].samples;
  }
  EXPECT_EQ(scored, 19);
}

}  // namespace
}  // namespace fathom::worker
