#include "kernels/cuda/skinny_plan.h"

#include <algorithm>
#include <bit>

namespace fathom::kernels::cuda {
namespace {

// Rates in bytes a microsecond. Only their ratios matter to the choice, and those hold for H100 and
// H200 closely enough.
constexpr double kMemoryRate = 4.4e6;
constexpr double kL2Rate = 6.0e6;
constexpr double kBlockRate = 0.07e6;
// Storing parts, counting and reading them back lengthens the chain from one kernel to the next.
constexpr double kSplitMicroseconds = 1.5;
// Narrow tiles reach 80 % of what wider ones do: x is a third of what they load and multiply.
constexpr int32_t kNarrowRows = 32;
constexpr double kNarrowCost = 1.25;
constexpr int32_t kUnitBytes = 32 * 1024;  // of W
constexpr int32_t kStageBytesMax = 48 * 1024;

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

int32_t TokensOf(int32_t rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64; }

double Microseconds(const SkinnyPlan& plan, int32_t rows, int32_t n, int32_t k,
                    int32_t num_multiprocessors) {
  const double weight = 2.0 * n * k * (plan.tile_rows < kNarrowRows ? kNarrowCost : 1);
  const double tiles = plan.tiles;
  const double x = tiles * rows * k * 2.0;
  const double tile_bytes = 2.0 * plan.tile_rows * k;
  if (plan.split) {
    const double slots = plan.blocks + std::min<double>(plan.blocks, tiles);
    const double parts = 2 * slots * plan.tile_rows * rows * 4.0;
    return std::max({weight / kMemoryRate, (weight + x + parts) / kL2Rate,
                     tiles * tile_bytes / plan.blocks / kBlockRate}) +
           kSplitMicroseconds + 0.05 * x / kL2Rate;
  }
  const double waves = CeilDiv(plan.tiles, num_multiprocessors);
  const double busy = tiles / (waves * num_multiprocessors);
  // Blocks that end early leave their share of the memory's rate to the others, so that uneven
  // loads cost less than they seem to.
  return std::max({weight / kMemoryRate * (0.5 + 0.5 / busy), (weight + x) / kL2Rate,
                   waves * tile_bytes / kBlockRate}) +
         0.05 * x / kL2Rate;
}

}  // namespace

SkinnyPlan CompleteSkinnyPlan(SkinnyPlan plan, int32_t rows, int32_t n, int32_t k,
                              int32_t num_multiprocessors) {
  plan.tokens = TokensOf(rows);
  const SkinnyShape shape = SkinnyShapeOf(plan.tokens);
  if (plan.boxes == 0) {
    const int32_t fitting =
        std::clamp(kUnitBytes / (plan.tile_rows * 128), 1,
                   std::max(1, kStageBytesMax / ((plan.tile_rows + plan.tokens) * 128)));
    const int32_t needed =
        static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(CeilDiv(k, kSkinnyBoxColumns))));
    plan.boxes =
        std::min(static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(fitting))), needed);
    plan.boxes = std::max(plan.boxes, shape.BoxStep());
  }
  plan.tiles = CeilDiv(n, plan.tile_rows);
  plan.units_per_tile = CeilDiv(k, plan.boxes * kSkinnyBoxColumns);
  const int32_t most = std::min(num_multiprocessors, kSkinnyBlocksMax);
  plan.blocks = static_cast<int32_t>(std::min<int64_t>(
      most, plan.split ? static_cast<int64_t>(plan.tiles) * plan.units_per_tile : plan.tiles));
  if (plan.stages == 0) {
    const SkinnyLayout layout = SkinnyLayoutOf(plan);
    const int32_t fitting = (kSkinnySharedBytes - layout.bytes) / layout.stage_bytes;
    const int64_t share =
        (static_cast<int64_t>(plan.tiles) * plan.units_per_tile + plan.blocks - 1) / plan.blocks;
    const auto useful = static_cast<int32_t>(std::min<int64_t>(share, kSkinnyStagesMax));
    plan.stages = std::clamp(fitting, 1, std::max(useful, 1));
  }
  return plan;
}

bool IsValidSkinnyPlan(const SkinnyPlan& plan, int32_t rows, int32_t n, int32_t k) {
  if (rows < 1 || rows > plan.tokens || plan.tokens != TokensOf(plan.tokens)) return false;
  const SkinnyShape shape = SkinnyShapeOf(plan.tokens);
  const bool tile_fits = plan.tile_rows > 0 && plan.tile_rows % 8 == 0 &&
                         plan.tile_rows <= shape.MaxTileRows() && plan.boxes > 0 &&
                         plan.boxes % shape.BoxStep() == 0;
  if (!tile_fits || n <= 0 || k <= 0) return false;
  const int64_t units = static_cast<int64_t>(plan.tiles) * plan.units_per_tile;
  return plan.tiles == CeilDiv(n, plan.tile_rows) &&
         plan.units_per_tile == CeilDiv(k, plan.boxes * kSkinnyBoxColumns) && plan.blocks > 0 &&
         plan.blocks <= kSkinnyBlocksMax && plan.blocks <= (plan.split ? units : plan.tiles) &&
         plan.stages > 0 && plan.stages <= kSkinnyStagesMax &&
         SkinnyLayoutOf(plan).bytes <= kSkinnySharedBytes;
}

// Measured on an H100 (fathom-gpu-linear-bench --sweep): a ring that fills the shared memory beats
// one that leaves room for the next kernel's blocks by 20 %, and blocks that share tiles lose to
// those that do not as soon as more than 8 tokens make the parts heavy.
SkinnyPlan PlanSkinny(int32_t rows, int32_t n, int32_t k, int32_t num_multiprocessors,
                      SkinnyNeeds needs) {
  SkinnyPlan best;
  double best_time = 0;
  const int32_t max_rows = SkinnyShapeOf(TokensOf(rows)).MaxTileRows();
  for (const bool split : {false, true}) {
    if (split && rows > 8) continue;
    for (int32_t tile_rows = 8; tile_rows <= max_rows; tile_rows += 8) {
      const SkinnyPlan plan = CompleteSkinnyPlan({.tile_rows = tile_rows, .split = split}, rows, n,
                                                 k, num_multiprocessors);
      if (!needs.HeldBy(plan)) continue;
      const double time = Microseconds(plan, rows, n, k, num_multiprocessors);
      if (best.tile_rows != 0 && time >= best_time) continue;
      best = plan;
      best_time = time;
    }
  }
  return best;
}

}  // namespace fathom::kernels::cuda
