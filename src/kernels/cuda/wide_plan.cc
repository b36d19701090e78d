#include "kernels/cuda/wide_plan.h"

#include <algorithm>

namespace fathom::kernels::cuda {
namespace {

// Measured on an H200. Rates in bytes a microsecond, times in microseconds; only their ratios
// matter to the choice.
constexpr double kMemoryRate = 4.4e6;
constexpr double kL2Rate = 8.5e6;
constexpr double kPartTime = 0.15;  // to meet and add up, for each part beside the first

// A block needs so long for a unit, in which its warpgroups take turns or all have rows.
double UnitTime(const WidePlan& plan) {
  return WideDepthGroups(plan.tile_rows) > 1
             ? 0.18 + 0.0006 * plan.tokens
             : 0.2 + 0.0018 * plan.tokens * WideRowBlocks(plan.tile_rows);
}

int32_t CeilDiv(int32_t a, int32_t b) { return (a + b - 1) / b; }

int32_t TokensOf(int32_t rows) { return rows <= 32 ? 32 : 64; }

// Warpgroups that take turns must always have the same stages each: who waits at a barrier knows
// only whether its phase is odd, and could take another group's for its own. A warpgroup leaves a
// stage only when its next one's products have begun, so each needs two.
int32_t StagesStep(int32_t tile_rows) { return WideDepthGroups(tile_rows); }
int32_t StagesMin(int32_t tile_rows) { return 2 * StagesStep(tile_rows); }

double Microseconds(const WidePlan& plan, int32_t rows, int32_t n, int32_t k,
                    int32_t num_multiprocessors) {
  const double waves = CeilDiv(plan.tiles, plan.clusters);
  const double busy = static_cast<double>(plan.tiles) * plan.splits / (waves * num_multiprocessors);
  const double weight = 2.0 * n * k;
  const double x = 2.0 * plan.tiles * rows * k;
  // Blocks that end early leave their share of the memory's rate to the others, so that uneven
  // loads cost less than they seem to.
  return std::max(std::max(weight / kMemoryRate, (weight + x) / kL2Rate) * (0.5 + 0.5 / busy),
                  waves * CeilDiv(plan.units_per_tile, plan.splits) * UnitTime(plan)) +
         kPartTime * (plan.Parts() - 1);
}

}  // namespace

WidePlan CompleteWidePlan(WidePlan plan, int32_t rows, int32_t n, int32_t k,
                          int32_t num_multiprocessors) {
  plan.tokens = TokensOf(rows);
  plan.x_rows = CeilDiv(rows, 8) * 8;
  plan.tiles = CeilDiv(n, plan.tile_rows);
  plan.units_per_tile = CeilDiv(k, kWideUnitColumns);
  plan.clusters = std::min(plan.tiles, std::max(1, num_multiprocessors / plan.splits));
  plan.tiles_each = plan.tiles / plan.clusters;
  plan.clusters_with_more = plan.tiles % plan.clusters;
  if (plan.stages == 0) {
    plan.stages = kWideStagesMax;
    while (plan.stages > StagesMin(plan.tile_rows) && WideLayoutOf(plan).bytes > kWideSharedBytes) {
      plan.stages -= StagesStep(plan.tile_rows);
    }
  }
  return plan;
}

bool IsValidWidePlan(const WidePlan& plan, int32_t rows, int32_t n, int32_t k) {
  if (rows < 1 || rows > plan.x_rows || plan.x_rows % 8 != 0 || plan.x_rows > plan.tokens ||
      plan.tokens != TokensOf(plan.tokens) || n <= 0 || k <= 0) {
    return false;
  }
  if (plan.splits < 1 || plan.splits > kWideSplitsMax || plan.tile_rows < 8 ||
      plan.tile_rows % 8 != 0 || plan.tile_rows > kWideTileRowsMax) {
    return false;
  }
  return plan.tiles == CeilDiv(n, plan.tile_rows) &&
         plan.units_per_tile == CeilDiv(k, kWideUnitColumns) && plan.clusters >= 1 &&
         plan.clusters <= plan.tiles && plan.tiles_each == plan.tiles / plan.clusters &&
         plan.clusters_with_more == plan.tiles % plan.clusters &&
         (plan.Parts() == 1 || plan.clusters == plan.tiles) && plan.splits <= plan.units_per_tile &&
         plan.stages % StagesStep(plan.tile_rows) == 0 &&
         plan.stages >= StagesMin(plan.tile_rows) && plan.stages <= kWideStagesMax &&
         WideLayoutOf(plan).bytes <= kWideSharedBytes;
}

WidePlan PlanWide(int32_t rows, int32_t n, int32_t k, int32_t num_multiprocessors,
                  bool rows_by_16) {
  const int32_t step = rows_by_16 ? 16 : 8;
  WidePlan best;
  double best_time = 0;
  for (int32_t splits = 1; splits <= kWideSplitsMax; ++splits) {
    for (int32_t tile_rows = step; tile_rows <= kWideTileRowsMax; tile_rows += step) {
      const WidePlan plan = CompleteWidePlan({.tile_rows = tile_rows, .splits = splits}, rows, n, k,
                                             num_multiprocessors);
      if (!IsValidWidePlan(plan, rows, n, k)) continue;
      const double time = Microseconds(plan, rows, n, k, num_multiprocessors);
      if (best.tile_rows != 0 && time >= best_time) continue;
      best = plan;
      best_time = time;
    }
  }
  return best;
}

}  // namespace fathom::kernels::cuda
