#pragma once

// How the skinny kernel brings its operands in: which units a block has, the ring of stages in
// shared memory, and the thread that keeps it full. Consumers free a stage through its empty
// barrier, one arrival a warp; the copies of a stage complete its full one. For linear_skinny.cu.

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/skinny_plan.h"
#include "kernels/cuda/skinny_ptx.cuh"
#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

struct SkinnyParams {
  CUtensorMap weight;
  CUtensorMap x;
  void* out;
  const float* bias;
  uint32_t* counters;
  float* partials;
  int32_t rows;
  int32_t n;
  int32_t k;
  DType out_dtype;
  LinearFusion fusion;
  SkinnyPlan plan;
  SkinnyLayout layout;
};

// The units of one block, in order.
struct SkinnyCursor {
  int32_t tile;
  int32_t unit;  // within the tile
  int32_t tile_step;
  int32_t left;

  __device__ SkinnyCursor(const SkinnyPlan& plan, int32_t block) {
    if (plan.split) {
      const int64_t units = static_cast<int64_t>(plan.tiles) * plan.units_per_tile;
      const int64_t begin = SkinnyShareBegin(units, plan.blocks, block);
      tile = static_cast<int32_t>(begin / plan.units_per_tile);
      unit = static_cast<int32_t>(begin % plan.units_per_tile);
      tile_step = 1;
      left = static_cast<int32_t>(SkinnyShareBegin(units, plan.blocks, block + 1) - begin);
    } else {
      // Blocks that run at the same time read neighbouring rows, so few pages are in use at once.
      tile = block;
      unit = 0;
      tile_step = plan.blocks;
      left = (plan.tiles - block + plan.blocks - 1) / plan.blocks * plan.units_per_tile;
    }
  }
  __device__ void Advance(const SkinnyPlan& plan) {
    --left;
    if (++unit == plan.units_per_tile) {
      unit = 0;
      tile += tile_step;
    }
  }
  __device__ void FinishTile(int32_t units) {
    left -= units;
    unit = 0;
    tile += tile_step;
  }
};

// A place in the ring and the parity of the barriers' phase that goes with it.
struct SkinnyRingSlot {
  int32_t index = 0;
  uint32_t parity = 0;

  __device__ void Advance(int32_t stages) {
    if (++index == stages) {
      index = 0;
      parity ^= 1;
    }
  }
};

extern __shared__ __align__(1024) char skinny_shared[];

// Addresses in a block's shared memory.
__device__ inline uint32_t StageAddress(const SkinnyLayout& layout, int32_t slot) {
  return ptx::SharedAddress(skinny_shared) + slot * layout.stage_bytes;
}
__device__ inline uint32_t FullBarrier(const SkinnyLayout& layout, int32_t slot) {
  return ptx::SharedAddress(skinny_shared) + layout.barriers_offset + 8 * slot;
}
__device__ inline uint32_t EmptyBarrier(const SkinnyLayout& layout, int32_t slot) {
  return FullBarrier(layout, kSkinnyStagesMax + slot);
}
__device__ inline float* Sums(const SkinnyLayout& layout) {
  return reinterpret_cast<float*>(skinny_shared + layout.sums_offset);
}
__device__ inline uint32_t& IsLastFlag(const SkinnyLayout& layout) {
  return *reinterpret_cast<uint32_t*>(skinny_shared + layout.barriers_offset +
                                      2 * kSkinnyStagesMax * 8);
}

class SkinnyProducer {
 public:
  __device__ explicit SkinnyProducer(const SkinnyParams& params)
      : params_(params), layout_(params.layout), policy_(ptx::EvictFirstPolicy()) {}

  __device__ void Run() {
    const SkinnyPlan& plan = params_.plan;
    SkinnyCursor cursor(plan, blockIdx.x);
    const int32_t units = cursor.left;
    const int32_t early = min(units, plan.stages);
    ptx::PrefetchTensorMap(&params_.weight);
    ptx::PrefetchTensorMap(&params_.x);

    // Weights depend on nothing, so the ring fills while the kernels ahead still run.
    for (int32_t i = 0; i < early; ++i) {
      ptx::ArriveExpecting(FullBarrier(layout_, i), layout_.stage_bytes);
      LoadWeights(cursor, i);
      if (i + 1 == units) LetSuccessorStart();
      cursor.Advance(plan);
    }
    WaitForPredecessor();
    SkinnyCursor behind(plan, blockIdx.x);
    for (int32_t i = 0; i < early; ++i) {
      LoadX(behind, i);
      behind.Advance(plan);
    }

    SkinnyRingSlot slot;
    for (int32_t i = early; i < units; ++i) {
      ptx::WaitParity(EmptyBarrier(layout_, slot.index), slot.parity);
      ptx::ArriveExpecting(FullBarrier(layout_, slot.index), layout_.stage_bytes);
      LoadWeights(cursor, slot.index);
      LoadX(cursor, slot.index);
      if (i + 1 == units) LetSuccessorStart();
      cursor.Advance(plan);
      slot.Advance(plan.stages);
    }
  }

 private:
  __device__ void LoadWeights(const SkinnyCursor& cursor, int32_t slot) {
    const int32_t boxes = params_.plan.boxes;
    if (params_.fusion.gated) {
      for (int32_t box = 0; box < boxes; ++box) {
        ptx::CopyHalvesBox(StageAddress(layout_, slot) + box * layout_.box_bytes, &params_.weight,
                           (cursor.unit * boxes + box) * kSkinnyBoxColumns,
                           cursor.tile * (params_.plan.tile_rows / 2), FullBarrier(layout_, slot),
                           policy_);
      }
      return;
    }
    for (int32_t box = 0; box < boxes; ++box) {
      ptx::CopyBox(StageAddress(layout_, slot) + box * layout_.box_bytes, &params_.weight,
                   (cursor.unit * boxes + box) * kSkinnyBoxColumns,
                   cursor.tile * params_.plan.tile_rows, FullBarrier(layout_, slot), policy_);
    }
  }
  __device__ void LoadX(const SkinnyCursor& cursor, int32_t slot) {
    const int32_t boxes = params_.plan.boxes;
    for (int32_t box = 0; box < boxes; ++box) {
      ptx::CopyBox(StageAddress(layout_, slot) + layout_.x_offset + box * params_.plan.tokens * 128,
                   &params_.x, (cursor.unit * boxes + box) * kSkinnyBoxColumns, 0,
                   FullBarrier(layout_, slot));
    }
  }

  const SkinnyParams& params_;
  const SkinnyLayout& layout_;
  const uint64_t policy_;
};

}  // namespace fathom::kernels::cuda
