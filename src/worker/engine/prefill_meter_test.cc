#include "worker/engine/prefill_meter.h"

#include <gtest/gtest.h>

namespace fathom::worker {
namespace {

TEST(PrefillMeterTest, IsTheRateOfStepsThatComputePrompts) {
  PrefillMeter meter;
  EXPECT_EQ(meter.TokensPerSecond(), 0);
  meter.Observe(0, 5'000'000);  // decodes alone say nothing
  EXPECT_EQ(meter.TokensPerSecond(), 0);
  for (int i = 0; i < 100; ++i) meter.Observe(2000, 50'000'000);
  EXPECT_NEAR(meter.TokensPerSecond(), 40'000, 1);
}

TEST(PrefillMeterTest, ForgetsWithinSeconds) {
  PrefillMeter meter;
  for (int i = 0; i < 100; ++i) meter.Observe(2000, 50'000'000);
  for (int i = 0; i < 200; ++i) meter.Observe(1000, 50'000'000);
  EXPECT_NEAR(meter.TokensPerSecond(), 20'000, 200);
}

TEST(PrefillMeterTest, LargeStepsWeighMore) {
  PrefillMeter meter;
  meter.Observe(2000, 50'000'000);
  meter.Observe(1, 1'000'000);
  EXPECT_GT(meter.TokensPerSecond(), 38'000);
}

}  // namespace
}  // namespace fathom::worker
