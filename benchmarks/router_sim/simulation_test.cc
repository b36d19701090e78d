#include "benchmarks/router_sim/simulation.h"

#include <gtest/gtest.h>

#include "benchmarks/router_sim/policy.h"

namespace fathom::router_sim {
namespace {

// 10 ms a step and 0.1 ms a prompt token.
SimulationOptions Options() {
  SimulationOptions options;
  options.num_workers = 2;
  options.shape.time = {.step_us = 10'000, .prefill_token_us = 100};
  options.shape.num_blocks = 1000;
  options.shape.step_tokens = 512;
  options.end_s = 1000;
  return options;
}

// One session that asks twice.
Trace Twice() {
  Session session{.context = {{1, 801}}};
  const Segment first{2, 100};
  const Segment answer{3, 20};
  session.steps.push_back(
      {.branches = {{.extra = {first}, .output = answer}}, .carry = {first, answer}});
  session.steps.push_back({.wait_s = 5, .branches = {{.extra = {{4, 79}}, .output = {5, 10}}}});
  return {{session}};
}

TEST(SimulationTest, TimeIsThatOfTheModel) {
  SimulationOptions options = Options();
  options.end_s = 1;  // the second is not sent any more
  Trace trace = Twice();
  trace.sessions[0].steps.pop_back();
  const auto result = Simulate(trace, "round-robin", options);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->requests, 1);
  EXPECT_EQ(result->prompt_tokens, 901);
  // Two steps, 511 and 388 tokens beyond their first, and the way there.
  EXPECT_NEAR(result->ttft_p50_s, 0.0005 + 0.02 + 0.0899, 1e-9);
}

TEST(SimulationTest, ASecondTurnHitsWhereTheFirstOneWas) {
  const auto router = Simulate(Twice(), "router", Options());
  ASSERT_TRUE(router.ok());
  // 801 + 100 + 20 tokens are there, the last of them without KV: 57 blocks.
  EXPECT_EQ(router->cached_tokens, 57 * 16);
  EXPECT_EQ(router->best_tokens, 57 * 16);
  EXPECT_EQ(router->predicted_tokens, 57 * 16);
  const auto other = Simulate(Twice(), "round-robin", Options());
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->cached_tokens, 0);
  EXPECT_EQ(other->best_tokens, 57 * 16);
}

TEST(SimulationTest, TheSameArgumentsGiveTheSameResult) {
  SimulationOptions options = Options();
  options.num_workers = 4;
  options.end_s = 20;
  options.shape.num_blocks = 8000;
  for (const std::string_view trace_name : {"chat", "rag", "agent"}) {
    for (const std::string_view policy : kPolicies) {
      const auto run = [&](uint64_t seed) {
        return Simulate(MakeTrace(trace_name, 1, 20, seed).value(), policy, options).value();
      };
      const SimulationResult a = run(1);
      const SimulationResult b = run(1);
      EXPECT_GT(a.requests, 10);
      EXPECT_EQ(a.ttft_p99_s, b.ttft_p99_s);
      EXPECT_EQ(a.cached_tokens, b.cached_tokens);
      EXPECT_LE(a.cached_tokens, a.best_tokens);
      EXPECT_NE(run(2).ttft_p99_s, a.ttft_p99_s);
    }
  }
}

TEST(SimulationTest, UnknownNamesAreErrors) {
  EXPECT_FALSE(MakeTrace("poem", 1, 1, 1).ok());
  EXPECT_FALSE(Simulate(Twice(), "astrology", Options()).ok());
}

}  // namespace
}  // namespace fathom::router_sim
