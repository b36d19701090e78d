#include "kernels/cuda/wide_plan.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace fathom::kernels::cuda {
namespace {

// Every product of a row of W and a column of units is some block's, exactly once.
void ExpectCoversAll(const WidePlan& plan, int32_t n, int32_t k) {
  std::vector<int> seen(static_cast<size_t>(plan.tiles) * plan.units_per_tile);
  for (int32_t cluster = 0; cluster < plan.clusters; ++cluster) {
    for (int32_t tile = cluster; tile < plan.tiles; tile += plan.clusters) {
      for (int32_t split = 0; split < plan.splits; ++split) {
        const int32_t end = WideShareBegin(plan, split + 1);
        ASSERT_GT(end, WideShareBegin(plan, split));
        for (int32_t unit = WideShareBegin(plan, split); unit < end; ++unit) {
          ++seen[static_cast<size_t>(tile) * plan.units_per_tile + unit];
        }
      }
    }
  }
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
  EXPECT_GE(plan.tiles * plan.tile_rows, n);
  EXPECT_GE(plan.units_per_tile * kWideUnitColumns, k);
}

void ExpectSound(const WidePlan& plan, int32_t rows, int32_t n, int32_t k, int32_t processors) {
  SCOPED_TRACE(testing::Message() << rows << " rows, " << n << " x " << k << ", tile rows "
                                  << plan.tile_rows << ", splits " << plan.splits);
  ASSERT_TRUE(IsValidWidePlan(plan, rows, n, k));
  EXPECT_LE(plan.clusters * plan.splits, std::max(processors, plan.splits));
  const WideLayout layout = WideLayoutOf(plan);
  EXPECT_EQ(layout.stage_bytes % 1024, 0);
  EXPECT_EQ(layout.x_offset % 1024, 0);
  EXPECT_LE(layout.bytes, kWideSharedBytes);
  EXPECT_LE(layout.barriers_offset + (2 * kWideStagesMax + 3) * 8, layout.bytes);
  ASSERT_NO_FATAL_FAILURE(ExpectCoversAll(plan, n, k));
}

TEST(WidePlanTest, SoundForModelShapes) {
  const int32_t shapes[][2] = {{6144, 4096},   {4096, 4096}, {28672, 4096}, {4096, 14336},
                               {128256, 4096}, {4608, 3584}, {3584, 18944}, {152064, 3584},
                               {57344, 8192},  {8192, 28672}};
  for (const auto& [n, k] : shapes) {
    for (const int32_t rows : {1, 8, 9, 17, 24, 32, 33, 48, 64}) {
      ASSERT_NO_FATAL_FAILURE(ExpectSound(PlanWide(rows, n, k, 132), rows, n, k, 132));
    }
  }
}

TEST(WidePlanTest, SoundForAnyShape) {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const auto n = static_cast<int32_t>(1 + random() % 5000);
    const auto k = static_cast<int32_t>(1 + random() % 5000);
    const auto rows = static_cast<int32_t>(1 + random() % kWideRowsMax);
    const auto processors = static_cast<int32_t>(1 + random() % 150);
    ASSERT_NO_FATAL_FAILURE(ExpectSound(PlanWide(rows, n, k, processors), rows, n, k, processors));
  }
}

TEST(WidePlanTest, FillsTheDevice) {
  const int32_t shapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
  for (const auto& [n, k] : shapes) {
    for (const int32_t rows : {32, 64}) {
      const WidePlan plan = PlanWide(rows, n, k, 132);
      EXPECT_GE(plan.clusters * plan.splits, 120) << rows << ", " << n << " x " << k;
    }
  }
}

TEST(WidePlanTest, RefusesWhatDoesNotFit) {
  const WidePlan good = CompleteWidePlan({.tile_rows = 128, .splits = 2}, 64, 4096, 4096, 132);
  ASSERT_TRUE(IsValidWidePlan(good, 64, 4096, 4096));
  EXPECT_FALSE(IsValidWidePlan(good, 65, 4096, 4096));
  EXPECT_FALSE(IsValidWidePlan(good, 64, 4224, 4096));
  EXPECT_FALSE(IsValidWidePlan(good, 64, 4096, 4160));
  const auto broken = [&](auto change) {
    WidePlan plan = good;
    change(plan);
    return !IsValidWidePlan(plan, 64, 4096, 4096);
  };
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.tokens = 48; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.x_rows = 60; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.x_rows = 72; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.tile_rows = 0; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.tile_rows = 130; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.splits = 0; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.splits = 4; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.stages = 1; }));
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.stages = kWideStagesMax; }));
  // Of warpgroups that take turns none ever has a stage that was another's.
  WidePlan turns = CompleteWidePlan({.tile_rows = 64, .splits = 2}, 64, 4096, 4096, 132);
  EXPECT_TRUE(IsValidWidePlan(turns, 64, 4096, 4096));
  --turns.stages;
  EXPECT_FALSE(IsValidWidePlan(turns, 64, 4096, 4096));
  // A tile's parts meet once.
  EXPECT_TRUE(broken([](WidePlan& plan) { plan.clusters /= 2; }));
}

}  // namespace
}  // namespace fathom::kernels::cuda
