#pragma once

// How the wide kernel cuts its work, as pure functions that a CPU can test. A tile is `tile_rows`
// rows of W, a unit 64 columns of a tile: what one stage of a block's ring of shared memory holds,
// with the same columns of x beside it. Blocks take whole tiles in turn or, where tiles are few,
// two blocks of a cluster take half of a tile's units each; and of a low tile the two warpgroups of
// a block take every other unit. What parts of a tile come of that are added up in a fixed order
// through the blocks' shared memory, not through device memory.

#include <cstdint>

#ifdef __CUDACC__
#define FATHOM_HOST_DEVICE __host__ __device__
#else
#define FATHOM_HOST_DEVICE
#endif

namespace fathom::kernels::cuda {

inline constexpr int32_t kWideRowsMax = 64;
inline constexpr int32_t kWideUnitColumns = 64;  // 128 bytes, the widest swizzle of a tensor copy
inline constexpr int32_t kWideStagesMax = 24;
// Clusters of four leave a tenth of a device's multiprocessors unused.
inline constexpr int32_t kWideSplitsMax = 2;
// As kSkinnySharedBytes: blocks of small kernels fit beside.
inline constexpr int32_t kWideSharedBytes = 224 * 1024;

inline constexpr int32_t kWideTileRowsMax = 256;

// Two warpgroups of consumers share out a tile, each with one or two blocks of 64 rows.
FATHOM_HOST_DEVICE constexpr int32_t WideRowBlocks(int32_t tile_rows) {
  return tile_rows <= 128 ? 1 : 2;  // a warpgroup
}
// Of a tile of one block of rows each warpgroup takes every other unit.
FATHOM_HOST_DEVICE constexpr int32_t WideDepthGroups(int32_t tile_rows) {
  return tile_rows <= 64 ? 2 : 1;
}

struct WidePlan {
  int32_t tokens = 0;     // rows of x as the tensor cores see them: 32 or 64
  int32_t x_rows = 0;     // as they come into shared memory: a multiple of 8
  int32_t tile_rows = 0;  // a multiple of 8
  int32_t splits = 1;     // blocks of a tile, which are a cluster
  int32_t stages = 0;
  int32_t tiles = 0;
  int32_t units_per_tile = 0;
  int32_t clusters = 0;  // as many as tiles, where a tile has parts
  // A cluster takes so many tiles, the first `clusters_with_more` of them one more.
  int32_t tiles_each = 0;
  int32_t clusters_with_more = 0;

  // What a tile's sums are made of: each split's warpgroups that share its depth.
  FATHOM_HOST_DEVICE constexpr int32_t Parts() const { return splits * WideDepthGroups(tile_rows); }
};

// Offsets in a block's shared memory, which begins with the stages: a swizzled box must lie at a
// multiple of 1024. In a stage the box of W comes first, then that of x. Products read whole blocks
// of 64 rows of W and all tokens, beyond the boxes into what lies behind them, and nobody stores
// those sums.
struct WideLayout {
  int32_t x_offset = 0;  // in a stage
  int32_t stage_bytes = 0;
  int32_t sums_offset = 0;      // what the others have summed of this block's tokens
  int32_t barriers_offset = 0;  // see wide_stream.cuh
  int32_t scales_offset = 0;    // [tokens] floats
  int32_t bytes = 0;
};

// A warpgroup's 64 rows of sums, in bytes.
FATHOM_HOST_DEVICE constexpr int32_t WideFragmentBytes(int32_t tokens) { return 64 * tokens * 4; }

FATHOM_HOST_DEVICE constexpr WideLayout WideLayoutOf(const WidePlan& plan) {
  WideLayout layout;
  layout.x_offset = plan.tile_rows * 128;
  layout.stage_bytes = layout.x_offset + plan.x_rows * 128;
  layout.sums_offset = plan.stages * layout.stage_bytes;
  layout.barriers_offset = layout.sums_offset + 2 * (plan.Parts() - 1) *
                                                    WideRowBlocks(plan.tile_rows) *
                                                    WideFragmentBytes(plan.tokens) / plan.Parts();
  layout.scales_offset = layout.barriers_offset + (2 * kWideStagesMax + 4) * 8;
  layout.bytes = layout.scales_offset + plan.tokens * 4;
  const int32_t weight_rows = 128 * WideRowBlocks(plan.tile_rows) / WideDepthGroups(plan.tile_rows);
  const int32_t x_end = plan.tile_rows + plan.tokens;
  const int32_t read =
      (plan.stages - 1) * layout.stage_bytes + (weight_rows > x_end ? weight_rows : x_end) * 128;
  if (layout.bytes < read) layout.bytes = read;
  return layout;
}

// Units [first, end) of a tile belong to split `split`. Without a division, which would be the
// larger part of what a block does before its first load.
static_assert(kWideSplitsMax == 2);
FATHOM_HOST_DEVICE constexpr int32_t WideShareBegin(const WidePlan& plan, int32_t split) {
  return split == plan.splits ? plan.units_per_tile : split * (plan.units_per_tile / 2);
}

// Fills in what follows from rows, N, K and the plan's tile_rows, splits and, where it is given
// (not 0), stages.
WidePlan CompleteWidePlan(WidePlan plan, int32_t rows, int32_t n, int32_t k,
                          int32_t num_multiprocessors);

// Whether the kernel can run the plan on this shape. A plan for more rows than there are will do.
bool IsValidWidePlan(const WidePlan& plan, int32_t rows, int32_t n, int32_t k);

// The plan for rows in [1, kWideRowsMax]; with `rows_by_16` its tiles are multiples of 16 rows.
WidePlan PlanWide(int32_t rows, int32_t n, int32_t k, int32_t num_multiprocessors,
                  bool rows_by_16 = false);

}  // namespace fathom::kernels::cuda
