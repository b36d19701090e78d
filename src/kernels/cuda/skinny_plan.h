#pragma once

// How the skinny kernel cuts its work, as pure functions that a CPU can test. A tile is `tile_rows`
// rows of W; a unit is `boxes` boxes of 64 columns of a tile, what one stage of a block's ring of
// shared memory holds, with the same columns of x beside it. Blocks either take whole tiles in turn
// or, where tiles are too few to load all multiprocessors alike, equal runs of consecutive units;
// then a tile that several blocks share is summed up by the last of them to end, in block order.

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define FATHOM_HOST_DEVICE __host__ __device__
#else
#define FATHOM_HOST_DEVICE
#endif

namespace fathom::kernels::cuda {

inline constexpr int32_t kSkinnyRowsMax = 64;
// With more, what products take along (LinearFusion) costs them more than it spares others.
inline constexpr int32_t kSkinnyFusedRowsMax = 16;
inline constexpr int32_t kSkinnyConsumerWarps = 8;
inline constexpr int32_t kSkinnyBoxColumns = 64;  // 128 bytes, the widest swizzle of a tensor copy
inline constexpr int32_t kSkinnyBlocksMax = 160;
inline constexpr int32_t kSkinnyStagesMax = 16;
inline constexpr size_t kSkinnyCounterBytes = 1024;  // one 32-bit counter a block
inline constexpr size_t kSkinnyPartialBytesMax = 64 * 128 * sizeof(float);

// A block is alone on its multiprocessor, but for blocks of the small kernels between two products:
// those must be resident early, since only then the next product may begin to fill its rings.
inline constexpr int32_t kSkinnySharedBytes = 224 * 1024;

struct SkinnyPlan {
  int32_t tokens = 0;     // rows of x as the tensor cores see them: 8, 16, 32 or 64
  int32_t tile_rows = 0;  // a multiple of 8
  int32_t boxes = 0;
  int32_t stages = 0;
  int32_t tiles = 0;
  int32_t units_per_tile = 0;
  int32_t blocks = 0;
  bool split = false;  // equal runs of units instead of whole tiles
};

// Warps form `row_groups` groups over the rows of a tile; the warps of a group share out the
// columns of a unit, and their sums meet in shared memory, `pass_tokens` tokens at a time.
struct SkinnyShape {
  int32_t row_groups;
  int32_t row_tiles;  // of 16 rows, a warp
  int32_t pass_tokens;

  FATHOM_HOST_DEVICE constexpr int32_t MaxTileRows() const { return 16 * row_groups * row_tiles; }
  FATHOM_HOST_DEVICE constexpr int32_t ColumnGroups() const {
    return kSkinnyConsumerWarps / row_groups;
  }
  // A box has four steps of 16 columns; with more warps than that a warp sees every other box.
  FATHOM_HOST_DEVICE constexpr int32_t BoxStep() const {
    return ColumnGroups() > 4 ? ColumnGroups() / 4 : 1;
  }
};

FATHOM_HOST_DEVICE constexpr SkinnyShape SkinnyShapeOf(int32_t tokens) {
  if (tokens <= 8) return {1, 4, 8};
  if (tokens <= 16) return {2, 4, 8};
  if (tokens <= 32) return {2, 4, 8};
  return {4, 2, 16};
}

// Floats between the sums of one token and the next in shared memory: 4 modulo 16 lets a warp store
// its fragments without bank conflicts.
FATHOM_HOST_DEVICE constexpr int32_t SkinnySumPitch(int32_t tile_rows) {
  return (tile_rows + 15) / 16 * 16 + 4;
}

// Offsets in a block's shared memory, which begins with the stages: a swizzled box must lie at a
// multiple of 1024. In a stage the boxes of W come first, then those of x. The last tile of 16 rows
// of a box may reach 8 rows too far, into the box behind it, and nobody stores those sums.
struct SkinnyLayout {
  int32_t box_bytes = 0;  // of W
  int32_t x_offset = 0;   // in a stage
  int32_t stage_bytes = 0;
  int32_t sums_offset = 0;      // [column groups, pass tokens, pitch] floats
  int32_t barriers_offset = 0;  // full ones, then empty ones, kSkinnyStagesMax each, then a flag
  int32_t scales_offset = 0;    // [kSkinnyFusedRowsMax] floats
  int32_t bytes = 0;
};

FATHOM_HOST_DEVICE constexpr SkinnyLayout SkinnyLayoutOf(const SkinnyPlan& plan) {
  const SkinnyShape shape = SkinnyShapeOf(plan.tokens);
  SkinnyLayout layout;
  layout.box_bytes = plan.tile_rows * 128;
  layout.x_offset = plan.boxes * layout.box_bytes;
  layout.stage_bytes = layout.x_offset + plan.boxes * plan.tokens * 128;
  layout.sums_offset = plan.stages * layout.stage_bytes;
  layout.barriers_offset = layout.sums_offset + shape.ColumnGroups() * shape.pass_tokens *
                                                    SkinnySumPitch(plan.tile_rows) * 4;
  layout.scales_offset = layout.barriers_offset + 2 * kSkinnyStagesMax * 8 + 16;
  layout.bytes = layout.scales_offset + kSkinnyFusedRowsMax * 4;
  return layout;
}

// Units [first, end) of the units of all tiles belong to `block`, where plan.split.
FATHOM_HOST_DEVICE constexpr int64_t SkinnyShareBegin(int64_t units, int32_t blocks,
                                                      int32_t block) {
  return units * block / blocks;
}

// The block whose share holds `unit`.
FATHOM_HOST_DEVICE constexpr int32_t SkinnyShareOwner(int64_t units, int32_t blocks, int64_t unit) {
  return static_cast<int32_t>(((unit + 1) * blocks - 1) / units);
}

// Of a tile it shares, a block stores its part in slot 0 if its run begins in that tile, else 1.
FATHOM_HOST_DEVICE constexpr int32_t SkinnyPartialSlot(int64_t units, int32_t blocks,
                                                       int32_t units_per_tile, int32_t block,
                                                       int32_t tile) {
  return 2 * block + (SkinnyShareBegin(units, blocks, block) / units_per_tile == tile ? 0 : 1);
}

// Fills in what follows from rows, N, K and the plan's tile_rows, split and, where they are given
// (not 0), boxes and stages.
SkinnyPlan CompleteSkinnyPlan(SkinnyPlan plan, int32_t rows, int32_t n, int32_t k,
                              int32_t num_multiprocessors);

// Whether the kernel can run the plan on this shape. A plan for more rows than there are will do.
bool IsValidSkinnyPlan(const SkinnyPlan& plan, int32_t rows, int32_t n, int32_t k);

// What the end of a tile asks of the plan.
struct SkinnyNeeds {
  bool whole_tiles = false;  // no tile is shared
  bool rows_by_16 = false;   // a tile is a multiple of 16 rows

  constexpr bool HeldBy(const SkinnyPlan& plan) const {
    return !(whole_tiles && plan.split) && !(rows_by_16 && plan.tile_rows % 16 != 0);
  }
};

// The plan for rows in [1, kSkinnyRowsMax].
SkinnyPlan PlanSkinny(int32_t rows, int32_t n, int32_t k, int32_t num_multiprocessors,
                      SkinnyNeeds needs = {});

}  // namespace fathom::kernels::cuda
