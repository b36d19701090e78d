// What crosses the link, from both sides: nothing is lost on the way, nothing bad gets in.

#include "worker/link_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/random.h"
#include "common/strings.h"
#include "master/fleet/link_messages.h"
#include "worker/link_testing.h"

namespace fathom::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Submit ValidSubmit() {
  master::Submission submission = TestSubmission("r1");
  submission.sampling.logit_bias = {{3, 1.5F}};
  submission.stop.stop_token_ids = {4};
  submission.grammar = {GrammarKind::kLark, "start: \"a\""};
  return master::ToMessage(submission);
}

// The error that a Submit gets after `change`.
template <typename Change>
std::string ErrorAfter(Change change) {
  v1::Submit message = ValidSubmit();
  change(message, *message.mutable_generate());
  const auto request = FromMessage(message, 0);
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(Message(request.status()));
}

TEST(LinkMessagesTest, AValidSubmitIsTaken) {
  const auto request = FromMessage(ValidSubmit(), 0);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->grammar->kind, GrammarKind::kLark);
  EXPECT_EQ(request->deadline_ns, 0);
}

TEST(LinkMessagesTest, EveryFieldIsBounded) {
  EXPECT_THAT(ErrorAfter([](auto& m, auto&) { m.clear_request_id(); }), HasSubstr("request id"));
  EXPECT_THAT(ErrorAfter([](auto& m, auto&) { m.set_attempt(0); }), HasSubstr("attempt"));
  EXPECT_THAT(ErrorAfter([](auto& m, auto&) { m.set_fingerprint("short"); }),
              HasSubstr("32 bytes"));
  EXPECT_THAT(ErrorAfter([](auto& m, auto&) { m.set_crashes(-1); }), HasSubstr("crashes"));
  EXPECT_THAT(ErrorAfter([](auto& m, auto&) { m.set_crashes(17); }), HasSubstr("crashes"));
  EXPECT_THAT(ErrorAfter([](auto& m, auto&) { m.clear_work(); }), HasSubstr("no such work"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.clear_prompt(); }), HasSubstr("prompt"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_max_tokens(0); }), HasSubstr("max_tokens"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_min_tokens(8); }), HasSubstr("min_tokens"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.clear_choices(); }), HasSubstr("choices"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.add_choices(); }), HasSubstr("twice"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.mutable_choices(0)->set_index(-1); }),
              HasSubstr("negative"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) {
                for (int i = 0; i < 7; ++i) w.mutable_choices(0)->add_tokens(1);
              }),
              HasSubstr("complete already"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_top_logprobs(21); }), HasSubstr("logprobs"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_prompt_logprobs(-1); }), HasSubstr("logprobs"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_grammar_kind(9); }), HasSubstr("grammar"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_grammar(std::string(2 << 20, 'x')); }),
              HasSubstr("1 MiB"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.set_adapter(1); }), HasSubstr("adapters"));
  EXPECT_THAT(
      ErrorAfter([](auto&, auto& w) { w.mutable_sampling()->set_temperature(std::nanf("")); }),
      HasSubstr("temperature"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.mutable_sampling()->set_top_p(1.5F); }),
              HasSubstr("top_p"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.mutable_sampling()->set_repetition_penalty(0); }),
              HasSubstr("repetition_penalty"));
  EXPECT_THAT(ErrorAfter([](auto&, auto& w) { w.mutable_sampling()->add_bias_tokens(1); }),
              HasSubstr("torn"));
}

TEST(LinkMessagesTest, ADeadlineFarAwayDoesNotOverflow) {
  v1::Submit message = ValidSubmit();
  message.set_remaining_ms(std::numeric_limits<int64_t>::max());
  EXPECT_GT(FromMessage(message, 1'000'000'000)->deadline_ns, 1'000'000'000);
}

TEST(LinkMessagesTest, OutputsComeBackAsTheyWere) {
  SequenceOutput output = TestOutput("r1", 3, 5, {7, 8}, FinishReason::kError);
  output.choice = 2;
  output.error = "why";
  output.bad_request = true;
  output.cached_tokens = 16;
  output.logprobs = {{{7, -0.5F}, {{7, -0.5F}, {9, -1.0F}}}, {{8, -0.25F}, {{8, -0.25F}}}};
  const auto back = master::FromMessage(ToMessage(output));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->attempt, 3u);
  EXPECT_EQ(back->choice, 2);
  EXPECT_EQ(back->first_index, 5);
  EXPECT_THAT(back->tokens, ElementsAre(7, 8));
  EXPECT_EQ(back->finish, FinishReason::kError);
  EXPECT_EQ(back->error, "why");
  EXPECT_TRUE(back->bad_request);
  EXPECT_EQ(back->cached_tokens, 16);
  ASSERT_EQ(back->logprobs.size(), 2u);
  EXPECT_EQ(back->logprobs[0].top[1].token, 9);
  EXPECT_EQ(back->logprobs[1].chosen.logprob, -0.25F);
}

TEST(LinkMessagesTest, BadOutputsAreErrors) {
  v1::StepOutput message = ToMessage(TestOutput("r1", 1, 0, {7}));
  message.set_finish(77);
  EXPECT_FALSE(master::FromMessage(message).ok());
  message.set_finish(0);
  message.set_first_index(-1);
  EXPECT_FALSE(master::FromMessage(message).ok());
  message.set_first_index(0);
  message.mutable_logprobs()->add_chosen(1);
  message.mutable_logprobs()->add_chosen(1);  // of one token
  EXPECT_FALSE(master::FromMessage(message).ok());
}

// Bytes that a broken or hostile peer may send: whatever parses is taken whole or refused.
TEST(LinkMessagesTest, MutilatedMessagesDoNoHarm) {
  SeededRandom random(11);
  SequenceOutput output = TestOutput("r1", 3, 5, {7, 8});
  output.logprobs = {{{7, -0.5F}, {{7, -0.5F}}}, {{8, -0.25F}, {{8, -0.25F}}}};
  const std::string submit = ValidSubmit().SerializeAsString();
  const std::string step = ToMessage(output).SerializeAsString();
  const auto mutilate = [&random](std::string bytes) {
    for (uint64_t i = 1 + random.Next() % 4; i > 0; --i) {
      bytes[random.Next() % bytes.size()] = static_cast<char>(random.Next());
    }
    if (random.Next() % 4 == 0) bytes.resize(random.Next() % bytes.size());
    return bytes;
  };
  int taken = 0;
  for (int round = 0; round < 50000; ++round) {
    v1::Submit message;
    if (message.ParseFromString(mutilate(submit))) {
      const auto request = FromMessage(message, 0);
      if (request.ok()) {
        ++taken;
        EXPECT_FALSE(request->prompt.empty());
        EXPECT_FALSE(request->choices.empty());
        EXPECT_GE(request->stop.max_tokens, 1);
      }
    }
    v1::StepOutput out;
    if (out.ParseFromString(mutilate(step))) {
      const auto back = master::FromMessage(out);
      if (back.ok() && out.has_logprobs()) {
        EXPECT_EQ(back->logprobs.size(), back->tokens.size());
      }
    }
  }
  EXPECT_GT(taken, 100);
}

}  // namespace
}  // namespace fathom::worker
