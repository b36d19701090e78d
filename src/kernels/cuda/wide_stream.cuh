#pragma once

// How the wide kernel brings its operands in: which units a block has, the ring of stages in shared
// memory, and the threads that keep it full. Consumers free a stage through its empty barrier, one
// arrival a warp; the copies of a stage complete its full one. For linear_wide.cu.

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/skinny_ptx.cuh"
#include "kernels/cuda/wide_cluster.cuh"
#include "kernels/cuda/wide_plan.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

inline constexpr int kWideConsumerWarps = 8;
inline constexpr int kWideProducerWarps = 4;

struct WideParams {
  CUtensorMap weight;
  CUtensorMap x;
  void* out;
  const float* bias;
  int32_t rows;
  int32_t n;
  int32_t k;
  DType out_dtype;
  LinearFusion fusion;
  WidePlan plan;
  WideLayout layout;
};

extern __shared__ __align__(1024) char wide_shared[];

// A block's part of the work.
struct WideShare {
  int32_t split;
  int32_t cluster;
  int32_t first_unit;
  int32_t units;  // of each of its tiles
  int32_t tiles;  // how many it has
  int32_t total;

  __device__ explicit WideShare(const WidePlan& plan) {
    split = static_cast<int32_t>(blockIdx.x) & (plan.splits - 1);
    cluster = static_cast<int32_t>(blockIdx.x) >> (plan.splits - 1);
    first_unit = WideShareBegin(plan, split);
    units = WideShareBegin(plan, split + 1) - first_unit;
    tiles = plan.tiles_each + (cluster < plan.clusters_with_more ? 1 : 0);
    total = tiles * units;
  }
  // Blocks that run at the same time read neighbouring rows, so few pages are in use at once.
  __device__ int32_t FirstRow(const WidePlan& plan, int32_t tile) const {
    return (cluster + tile * plan.clusters) * plan.tile_rows;
  }
};

// A place in the ring and the parity of the barriers' phase that goes with it.
struct WideSlot {
  int32_t index = 0;
  uint32_t parity = 0;

  // By fewer than there are.
  __device__ void Advance(int32_t stages, int32_t count = 1) {
    index += count;
    if (index >= stages) {
      index -= stages;
      parity ^= 1;
    }
  }
};

// Addresses in a block's shared memory.
__device__ inline uint32_t StageAddress(const WideLayout& layout, int32_t slot) {
  return ptx::SharedAddress(wide_shared) + slot * layout.stage_bytes;
}
__device__ inline uint32_t FullBarrier(const WideLayout& layout, int32_t slot) {
  return ptx::SharedAddress(wide_shared) + layout.barriers_offset + 8 * slot;
}
__device__ inline uint32_t EmptyBarrier(const WideLayout& layout, int32_t slot) {
  return FullBarrier(layout, kWideStagesMax + slot);
}

__device__ inline uint32_t SumsBarrier(const WideLayout& layout, int32_t warpgroup) {
  return FullBarrier(layout, 2 * kWideStagesMax + warpgroup);
}

// Completed once the rows' scales lie in shared memory.
__device__ inline uint32_t ScalesBarrier(const WideLayout& layout) {
  return FullBarrier(layout, 2 * kWideStagesMax + 2);
}
__device__ inline float* Scales(const WideLayout& layout) {
  return reinterpret_cast<float*>(wide_shared + layout.scales_offset);
}

// One thread of each of a few warps fills every kWideProducerWarps-th stage of the ring, and
// initialises its barriers: no one else asks for that stage. A thread takes 0.2 us for one, which
// alone would let a block's first loads wait, and be near the rate of memory later on.
class WideProducer {
 public:
  __device__ WideProducer(const WideParams& params, const WideShare& share, int32_t warp)
      : params_(params),
        plan_(params.plan),
        layout_(params.layout),
        share_(share),
        warp_(warp),
        early_(min(share.total, plan_.stages)),
        policy_(ptx::EvictFirstPolicy()) {
    Advance(first_, warp);
  }

  // Before other threads know the ring. Weights depend on nothing, so it fills while the kernels
  // ahead still run. `empty_arrivals` by consumers free a stage.
  __device__ void Fill(uint32_t empty_arrivals) {
    for (int32_t i = warp_; i < plan_.stages; i += kWideProducerWarps) {
      ptx::InitBarrier(FullBarrier(layout_, i), 1);
      ptx::InitBarrier(EmptyBarrier(layout_, i), empty_arrivals);
    }
    ptx::FenceBarrierInit();
    Place place = first_;
    for (int32_t i = warp_; i < early_; i += kWideProducerWarps) {
      ptx::ArriveExpecting(FullBarrier(layout_, i), layout_.stage_bytes);
      LoadWeights(place, i);
      Advance(place, kWideProducerWarps);
    }
    ptx::PrefetchTensorMap(&params_.x);
  }

  __device__ void Run() {
    WaitForPredecessor();
    if (warp_ >= plan_.stages) return;
    Place place = first_;
    for (int32_t i = warp_; i < early_; i += kWideProducerWarps) {
      LoadX(place, i);
      Advance(place, kWideProducerWarps);
    }
    int32_t slot = warp_;
    uint32_t parity = 0;
    place = first_;
    Advance(place, plan_.stages);
    for (int32_t i = plan_.stages + warp_; i < share_.total;) {
      ptx::WaitParity(EmptyBarrier(layout_, slot), parity);
      ptx::ArriveExpecting(FullBarrier(layout_, slot), layout_.stage_bytes);
      LoadWeights(place, slot);
      LoadX(place, slot);
      int32_t step = kWideProducerWarps;
      slot += kWideProducerWarps;
      if (slot >= plan_.stages) {
        step += plan_.stages - slot + warp_;
        slot = warp_;
        parity ^= 1;
      }
      Advance(place, step);
      i += step;
    }
  }

 private:
  struct Place {
    int32_t tile = 0;  // of this block's
    int32_t unit = 0;
  };
  __device__ void Advance(Place& place, int32_t count) const {
    place.unit += count;
    while (place.unit >= share_.units) {
      place.unit -= share_.units;
      ++place.tile;
    }
  }
  __device__ int32_t Column(const Place& place) const {
    return (share_.first_unit + place.unit) * kWideUnitColumns;
  }
  __device__ void LoadWeights(const Place& place, int32_t slot) const {
    const uint32_t to = StageAddress(layout_, slot);
    const int32_t row = share_.FirstRow(plan_, place.tile);
    if (params_.fusion.gated) {
      ptx::CopyPairsBox(to, &params_.weight, Column(place), row / 16, FullBarrier(layout_, slot),
                        policy_);
    } else {
      ptx::CopyBox(to, &params_.weight, Column(place), row, FullBarrier(layout_, slot), policy_);
    }
  }
  __device__ void LoadX(const Place& place, int32_t slot) const {
    ptx::CopyBox(StageAddress(layout_, slot) + layout_.x_offset, &params_.x, Column(place), 0,
                 FullBarrier(layout_, slot));
  }

  const WideParams& params_;
  const WidePlan& plan_;
  const WideLayout& layout_;
  const WideShare& share_;
  const int32_t warp_;
  const int32_t early_;  // stages that weights are asked for at once
  const uint64_t policy_;
  Place first_;  // of the thread's first stage
};

}  // namespace fathom::kernels::cuda
