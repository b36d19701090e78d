// How the skinny kernel's work is cut, for every shape the models have and many they have not. No
// GPU.

#include "kernels/cuda/skinny_plan.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "kernels/cuda/linear.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kMultiprocessors = 132;

struct Shape {
  int32_t n, k;
};

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {
      {6144, 4096},  {4096, 4096},  {28672, 4096}, {4096, 14336},  {128256, 4096},
      {10240, 8192}, {8192, 8192},  {57344, 8192}, {8192, 28672},  {4608, 3584},
      {3584, 3584},  {37888, 3584}, {3584, 18944}, {152064, 3584}, {64, 64},
      {1, 8},        {200, 136},    {8, 28672},    {576, 1536},    {133, 8},
  };
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    const auto n = static_cast<int32_t>(1 + random() % 9000);
    const auto k = static_cast<int32_t>(8 * (1 + random() % 1200));
    shapes.push_back({n, k});
  }
  return shapes;
}

TEST(SkinnyPlanTest, FitsEveryShape) {
  for (const Shape& shape : Shapes()) {
    for (int32_t rows = 1; rows <= kSkinnyRowsMax; ++rows) {
      SCOPED_TRACE(testing::Message() << rows << ": " << shape.n << " x " << shape.k);
      const SkinnyPlan plan = PlanSkinny(rows, shape.n, shape.k, kMultiprocessors);
      ASSERT_TRUE(IsValidSkinnyPlan(plan, rows, shape.n, shape.k));
      ASSERT_LE(SkinnyLayoutOf(plan).bytes, kSkinnySharedBytes);
      ASSERT_LE(plan.blocks, kMultiprocessors);
      const size_t parts = plan.split ? sizeof(float) * 2 * plan.blocks * rows * plan.tile_rows : 0;
      ASSERT_LE(kSkinnyCounterBytes + parts, SkinnyWorkspaceBytes());
      ASSERT_LE(plan.blocks * sizeof(uint32_t), kSkinnyCounterBytes);
    }
  }
}

TEST(SkinnyPlanTest, ManyUnitsFillTheRing) {
  for (const int32_t rows : {1, 8, 16, 32, 64}) {
    const SkinnyPlan plan = PlanSkinny(rows, 28672, 4096, kMultiprocessors);
    EXPECT_GE(plan.stages, 3);
    EXPECT_GE(plan.stages * SkinnyLayoutOf(plan).x_offset, 48 * 1024) << rows;
    EXPECT_EQ(plan.blocks, kMultiprocessors);
  }
}

// Sharing a tile lengthens every step of a chain of small layers, so they are cut to avoid it.
TEST(SkinnyPlanTest, FewTokensDoNotSplitAnEightBillionModel) {
  const Shape shapes[] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
  for (const Shape& shape : shapes) {
    for (const int32_t rows : {1, 4, 8}) {
      const SkinnyPlan plan = PlanSkinny(rows, shape.n, shape.k, kMultiprocessors);
      EXPECT_FALSE(plan.split) << shape.n << " x " << shape.k;
      EXPECT_GE(plan.blocks, 120) << shape.n << " x " << shape.k;
    }
  }
}

TEST(SkinnyPlanTest, HoldsWhatTheEndOfATileNeeds) {
  for (const Shape& shape : Shapes()) {
    for (int32_t rows = 1; rows <= kSkinnyFusedRowsMax; ++rows) {
      SCOPED_TRACE(testing::Message() << rows << ": " << shape.n << " x " << shape.k);
      const SkinnyNeeds gated = {.whole_tiles = true, .rows_by_16 = true};
      const SkinnyPlan plan = PlanSkinny(rows, shape.n, shape.k, kMultiprocessors, gated);
      ASSERT_TRUE(IsValidSkinnyPlan(plan, rows, shape.n, shape.k));
      ASSERT_TRUE(gated.HeldBy(plan));
      const SkinnyPlan whole =
          PlanSkinny(rows, shape.n, shape.k, kMultiprocessors, {.whole_tiles = true});
      ASSERT_FALSE(whole.split);
    }
  }
}

TEST(SkinnyPlanTest, BoxesLieAtMultiplesOfTheSwizzle) {
  for (const int32_t tokens : {8, 16, 32, 64}) {
    for (int32_t tile_rows = 8; tile_rows <= SkinnyShapeOf(tokens).MaxTileRows(); tile_rows += 8) {
      const SkinnyPlan plan =
          CompleteSkinnyPlan({.tile_rows = tile_rows}, tokens, 4096, 4096, kMultiprocessors);
      const SkinnyLayout layout = SkinnyLayoutOf(plan);
      EXPECT_EQ(layout.box_bytes % 1024, 0);
      EXPECT_EQ(layout.x_offset % 1024, 0);
      EXPECT_EQ(layout.stage_bytes % 1024, 0);
      EXPECT_EQ(layout.barriers_offset % 8, 0);
      EXPECT_EQ(SkinnySumPitch(tile_rows) % 16, 4);
    }
  }
}

TEST(SkinnyPlanTest, SharesCoverAllUnitsOnce) {
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    const int64_t units = 1 + random() % 5000;
    const auto blocks = static_cast<int32_t>(1 + random() % std::min<int64_t>(units, 160));
    ASSERT_EQ(SkinnyShareBegin(units, blocks, 0), 0);
    ASSERT_EQ(SkinnyShareBegin(units, blocks, blocks), units);
    for (int32_t block = 0; block < blocks; ++block) {
      const int64_t begin = SkinnyShareBegin(units, blocks, block);
      const int64_t end = SkinnyShareBegin(units, blocks, block + 1);
      ASSERT_LT(begin, end);
      for (int64_t unit = begin; unit < end; ++unit) {
        ASSERT_EQ(SkinnyShareOwner(units, blocks, unit), block);
      }
    }
  }
}

// Every part has a slot of its own, and every shared tile a counter of its own: that of its first
// block.
TEST(SkinnyPlanTest, PartsDoNotCollide) {
  std::mt19937 random(13);
  for (int i = 0; i < 2000; ++i) {
    const auto tiles = static_cast<int32_t>(1 + random() % 200);
    const auto units_per_tile = static_cast<int32_t>(1 + random() % 60);
    const int64_t units = static_cast<int64_t>(tiles) * units_per_tile;
    const auto blocks = static_cast<int32_t>(1 + random() % std::min<int64_t>(units, 160));
    std::set<int32_t> slots;
    std::set<int32_t> counters;
    for (int32_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = static_cast<int64_t>(tile) * units_per_tile;
      const int32_t first = SkinnyShareOwner(units, blocks, begin);
      const int32_t last = SkinnyShareOwner(units, blocks, begin + units_per_tile - 1);
      if (first == last) continue;
      ASSERT_TRUE(counters.insert(first).second);
      for (int32_t block = first; block <= last; ++block) {
        const int32_t slot = SkinnyPartialSlot(units, blocks, units_per_tile, block, tile);
        ASSERT_LT(slot, 2 * blocks);
        ASSERT_TRUE(slots.insert(slot).second);
      }
    }
  }
}

TEST(SkinnyPlanTest, RefusesWhatDoesNotFit) {
  const SkinnyPlan good = PlanSkinny(1, 4096, 4096, kMultiprocessors);
  ASSERT_TRUE(IsValidSkinnyPlan(good, 1, 4096, 4096));
  EXPECT_FALSE(IsValidSkinnyPlan(good, 9, 4096, 4096));
  EXPECT_FALSE(IsValidSkinnyPlan(good, 1, 8192, 4096));
  EXPECT_FALSE(IsValidSkinnyPlan(good, 1, 4096, 8192));
  SkinnyPlan bad = good;
  bad.stages = 40;
  EXPECT_FALSE(IsValidSkinnyPlan(bad, 1, 4096, 4096));
  bad = good;
  bad.tile_rows = 12;
  EXPECT_FALSE(IsValidSkinnyPlan(bad, 1, 4096, 4096));
}

TEST(ChooseLinearTest, ByTypesAndRows) {
  const auto choose = [](int32_t rows, int32_t n, int32_t k, DType x, DType w, DType out) {
    LinearArgs args;
    args.rows = rows;
    args.dtype = x;
    args.out_dtype = out;
    return ChooseLinear(args, {.rows = n, .cols = k, .dtype = w});
  };
  const DType f32 = DType::kF32;
  const DType bf16 = DType::kBF16;
  EXPECT_EQ(choose(1, 4096, 4096, bf16, bf16, bf16), LinearKernel::kWide);
  EXPECT_EQ(choose(33, 4096, 4096, bf16, bf16, f32), LinearKernel::kWide);
  EXPECT_EQ(choose(1, 4100, 4096, bf16, bf16, bf16), LinearKernel::kSkinny);
  EXPECT_EQ(choose(64, 4096, 4096, bf16, bf16, DType::kF16), LinearKernel::kWide);
  EXPECT_EQ(choose(64, 4097, 4096, bf16, bf16, bf16), LinearKernel::kSkinny);
  EXPECT_EQ(choose(65, 4096, 4096, bf16, bf16, bf16), LinearKernel::kLibrary);
  EXPECT_EQ(choose(65, 4096, 4096, bf16, bf16, DType::kF16), LinearKernel::kPlain);
  EXPECT_EQ(choose(1, 4096, 4095, bf16, bf16, bf16), LinearKernel::kPlain);
  EXPECT_EQ(choose(300, 4096, 33, bf16, bf16, bf16), LinearKernel::kPlain);
  EXPECT_EQ(choose(1, 64, 64, f32, bf16, f32), LinearKernel::kPlain);
  EXPECT_EQ(choose(100, 64, 64, f32, f32, f32), LinearKernel::kLibrary);
}

TEST(FusedLinearTest, ByRowsAndShape) {
  EXPECT_EQ(FusedLinear(1, 4096, 4096), LinearKernel::kWide);
  EXPECT_EQ(FusedLinear(64, 4096, 4096), LinearKernel::kWide);
  EXPECT_EQ(FusedLinear(65, 4096, 4096), std::nullopt);
  EXPECT_EQ(FusedLinear(16, 4104, 4096), LinearKernel::kSkinny);
  EXPECT_EQ(FusedLinear(17, 4104, 4096), std::nullopt);
  EXPECT_EQ(FusedLinear(1, 4096, 4095), std::nullopt);
}

}  // namespace
}  // namespace fathom::kernels::cuda
