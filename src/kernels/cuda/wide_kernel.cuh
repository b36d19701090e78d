#pragma once

// The wide kernel itself. linear_wide.cu says what it is for; linear_wide.cu and
// linear_wide_fused.cu instantiate it.

#include "kernels/cuda/wide_fusion.cuh"
#include "kernels/cuda/wide_plan.h"
#include "kernels/cuda/wide_products.cuh"
#include "kernels/cuda/wide_store.cuh"
#include "kernels/cuda/wide_stream.cuh"

namespace fathom::kernels::cuda {

using WideKernelPointer = void (*)(WideParams);

// Of products of BF16 that take a LinearFusion.
WideKernelPointer FusedWideKernel(const WidePlan& plan);

constexpr int WideThreads(bool fused) {
  return 32 * (kWideConsumerWarps + kWideProducerWarps + (fused ? kWideScaleWarps : 0));
}

namespace wide {

inline constexpr int kConsumerThreads = 32 * kWideConsumerWarps;

template <typename T, int kTokens, int kRowBlocks, int kDepthGroups, bool kFused>
class Consumer {
 public:
  static constexpr int kTiles = kTokens / 8;

  __device__ Consumer(const WideParams& params, const WideShare& share)
      : params_(params),
        plan_(params.plan),
        layout_(params.layout),
        share_(share),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32 % 4),
        depth_group_(kDepthGroups > 1 ? threadIdx.x / 128 : 0),
        first_row_(kDepthGroups > 1 ? 0 : threadIdx.x / 128 * kRowBlocks * 64) {}

  __device__ void Run() {
    const uint64_t first_weights = RowOperand(StageAddress(layout_, 0) + first_row_ * 128);
    const uint64_t first_x = RowOperand(StageAddress(layout_, 0) + layout_.x_offset);
    const uint32_t step = static_cast<uint32_t>(layout_.stage_bytes) / 16;
    WideSlot slot;
    slot.Advance(plan_.stages, depth_group_);
    // The first turn computes and stores nothing: it fetches the instructions of a tile's end while
    // the kernels ahead still run.
    for (int32_t i = -1; i < share_.tiles; ++i) {
      const bool live = i >= 0;
      if (i == 0) {
        if (plan_.splits > 1) ptx::WaitForCluster();
        // Results go where kernels ahead may still read.
        WaitForPredecessor();
      }
      float sums[kRowBlocks][kTiles][4] = {};
      [[maybe_unused]] Old old[kRowBlocks];
      if (kFused && live) LoadResidual(old, share_.FirstRow(plan_, i));
      int32_t before = -1;
      for (int32_t unit = depth_group_; unit < (live ? share_.units : 0); unit += kDepthGroups) {
        ptx::WaitParity(FullBarrier(layout_, slot.index), slot.parity);
        AddUnit(sums, first_weights + slot.index * step, first_x + slot.index * step);
        if (before >= 0) {
          WaitProducts<1>();
          Release(before);
        }
        before = slot.index;
        slot.Advance(plan_.stages, kDepthGroups);
      }
      WaitProducts<0>();
#pragma unroll
      for (auto& block : sums) Pin(block);
      if (before >= 0) Release(before);
      if (plan_.Parts() > 1) {
        if (plan_.splits == 1) {
          if constexpr (kDepthGroups > 1) AddUp<kDepthGroups>(sums, live);
        } else {
          AddUp<2 * kDepthGroups>(sums, live);
        }
      }
      if constexpr (kFused) {
        StoreFused(sums, old, share_.FirstRow(plan_, max(i, 0)), live);
      } else {
        Store(sums, share_.FirstRow(plan_, max(i, 0)), live);
      }
    }
  }

 private:
  using Sums = float[kRowBlocks][kTiles][4];
  using Old = typename WideFusedStore<T>::template Old<kTiles>;

  // Operands count in 16 bytes.
  __device__ void AddUnit(Sums& sums, uint64_t weights, uint64_t x) const {
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kWideUnitColumns / 16; ++step) {
#pragma unroll
      for (int block = 0; block < kRowBlocks; ++block) {
        MultiplyAddRows<T>(sums[block], weights + block * 64 * 128 / 16 + step * 2, x + step * 2);
      }
    }
    CommitProducts();
  }

  // By a warp; its part of the stage's products has ended.
  __device__ void Release(int32_t slot) const {
    if (lane_ == 0) ptx::Arrive(EmptyBarrier(layout_, slot));
  }

  // Of a tile that has parts, each part's warpgroup stores its own share of the tokens, by eights.
  __device__ int32_t Part() const { return share_.split * kDepthGroups + depth_group_; }

  // Sends the other parts' tokens to them, and adds what they send of this one's, in their order.
  // Threads at the same place of their warpgroups hold the same rows and tokens. Parts of one block
  // meet at a barrier of its consumers. A part whose tokens nobody asked for is done once it has
  // sent, and nobody sends to it: where all its parts are such ones, a block ends and makes room.
  template <int kParts>
  __device__ void AddUp(Sums& sums, bool live) const {
    constexpr bool kOneBlock = kParts == kDepthGroups;
    constexpr int kOwnTiles = kTiles / kParts;
    constexpr int kSentBytes = kRowBlocks * kOwnTiles * 128 * 16;  // by a part to another
    const int32_t own = Part();
    const int32_t warpgroup = threadIdx.x / 128;
    const uint32_t memory = ptx::SharedAddress(wide_shared) + layout_.sums_offset +
                            static_cast<uint32_t>(threadIdx.x) % 128 * 16;
    const auto place = [&](int32_t to_warpgroup, int32_t to, int32_t from) {
      return memory + (to_warpgroup * (kParts - 1) + (from < to ? from : from - 1)) * kSentBytes;
    };
#pragma unroll
    for (int to = 0; to < kParts; ++to) {
      if (to == own || to * kOwnTiles * 8 >= params_.rows) continue;
      const int32_t to_warpgroup = kDepthGroups > 1 ? to % kDepthGroups : warpgroup;
      const int32_t rank = to / kDepthGroups;
      uint32_t at = place(to_warpgroup, to, own);
      [[maybe_unused]] uint32_t barrier = 0;
      if constexpr (!kOneBlock) {
        at = ptx::AddressAt(at, rank);
        barrier = ptx::AddressAt(SumsBarrier(layout_, to_warpgroup), rank);
      }
#pragma unroll
      for (int i = 0; i < kRowBlocks * kOwnTiles; ++i) {
        const float(&part)[4] = sums[i / kOwnTiles][to * kOwnTiles + i % kOwnTiles];
        if constexpr (kOneBlock) {
          ptx::StoreFloats(at + i * (128 * 16), part);
        } else if (live) {
          ptx::Send(at + i * (128 * 16), barrier, part);
        }
      }
    }
    if constexpr (kOneBlock) ptx::NamedBarrier<kConsumerThreads>();
    if (own * kOwnTiles * 8 >= params_.rows) return;
    if (!kOneBlock && live) {
      ptx::WaitForSent(SumsBarrier(layout_, warpgroup), 0);
    }
#pragma unroll
    for (int to = 0; to < kParts; ++to) {
      if (to != own) continue;
#pragma unroll
      for (int i = 0; i < kRowBlocks * kOwnTiles; ++i) {
        float(&mine)[4] = sums[i / kOwnTiles][to * kOwnTiles + i % kOwnTiles];
        float sum[4] = {};
#pragma unroll
        for (int from = 0; from < kParts; ++from) {
          float part[4] = {mine[0], mine[1], mine[2], mine[3]};
          if (from != to) ptx::LoadFloats(part, place(warpgroup, to, from) + i * (128 * 16));
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[j] += part[j];
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) mine[j] = sum[j];
      }
    }
  }

  // Calls act(block of rows, its first row, the tile's last row's end, tokens by eights from, to).
  template <typename Act>
  __device__ void ForEachBlock(int32_t tile_row, const Act& act) const {
    const int32_t end = min(tile_row + plan_.tile_rows, params_.n);
    const int32_t tiles = kTiles / plan_.Parts();
    const int32_t first = plan_.Parts() > 1 ? Part() * tiles : 0;
#pragma unroll
    for (int block = 0; block < kRowBlocks; ++block) {
      act(block, tile_row + first_row_ + block * 64 + warp_ * 16, end, first, first + tiles);
    }
  }

  __device__ void Store(const Sums& sums, int32_t tile_row, bool live) const {
    const WideStore store(params_, live);
    ForEachBlock(tile_row, [&](int block, int32_t row, int32_t end, int32_t first, int32_t last) {
      store.Fragment(sums[block], row, end, first, last);
    });
  }

  __device__ void LoadResidual(Old (&old)[kRowBlocks], int32_t tile_row) const {
    if (params_.fusion.residual == nullptr) return;
    const WideFusedStore<T> store(params_, true);
    ForEachBlock(tile_row, [&](int block, int32_t row, int32_t end, int32_t first, int32_t last) {
      store.Load(old[block], row, end, first, last);
    });
  }

  __device__ void StoreFused(Sums& sums, const Old (&old)[kRowBlocks], int32_t tile_row,
                             bool live) const {
    const LinearFusion& fusion = params_.fusion;
    const WideFusedStore<T> store(params_, live);
    if (live && fusion.square_sums != nullptr) ptx::WaitParity(ScalesBarrier(layout_), 0);
    ForEachBlock(tile_row, [&](int block, int32_t row, int32_t end, int32_t first, int32_t last) {
      if (fusion.square_sums != nullptr) store.Divide(sums[block]);
      if (fusion.gated) {
        store.Gated(sums[block], row, end, first, last);
      } else if (fusion.residual != nullptr) {
        store.AddToResidual(sums[block], old[block], row, end, first, last);
      } else {
        WideStore(params_, live).Fragment(sums[block], row, end, first, last);
      }
    });
  }

  const WideParams& params_;
  const WidePlan& plan_;
  const WideLayout& layout_;
  const WideShare& share_;
  const int32_t lane_;
  const int32_t warp_;
  const int32_t depth_group_;
  const int32_t first_row_;  // of the warpgroup, in the tile
};

// By one thread: those beside the ring's.
template <int kTokens, int kRowBlocks, int kDepthGroups, bool kFused>
__device__ void InitBarriers(const WideParams& params) {
  constexpr int32_t kParts = kWideSplitsMax * kDepthGroups;
  constexpr int32_t kBytes = (kParts - 1) * kRowBlocks * WideFragmentBytes(kTokens) / kParts;
  for (int32_t i = 0; i < 2; ++i) {
    ptx::InitBarrier(SumsBarrier(params.layout, i), 1);
    ptx::ArriveExpecting(SumsBarrier(params.layout, i), kBytes);
  }
  if (kFused) ptx::InitBarrier(ScalesBarrier(params.layout), kWideScaleWarps);
  ptx::FenceBarrierInit();
}

template <typename T, int kTokens, int kRowBlocks, int kDepthGroups, bool kFused>
__global__ void __launch_bounds__(WideThreads(kFused), 1)
    WideKernel(const __grid_constant__ WideParams params) {
  const WidePlan& plan = params.plan;
  const WideShare share(plan);
  const int32_t helper = static_cast<int32_t>(threadIdx.x) / 32 - kWideConsumerWarps;
  const bool produces = helper >= 0 && helper < kWideProducerWarps && threadIdx.x % 32 == 0;
  WideProducer producer(params, share, helper);
  if (produces) {
    producer.Fill(kWideConsumerWarps / kDepthGroups);
  } else if (threadIdx.x == 0) {
    InitBarriers<kTokens, kRowBlocks, kDepthGroups, kFused>(params);
  }
  __syncthreads();
  if (plan.splits > 1) ptx::ReportToCluster();
  if (helper < 0) {
    Consumer<T, kTokens, kRowBlocks, kDepthGroups, kFused>(params, share).Run();
  } else if (produces) {
    if (ptx::SharedAddress(wide_shared) % 1024 != 0) __trap();
    // The next product's blocks need this one's shared memory, so however early they may begin,
    // each begins as one of these ends, one on a multiprocessor.
    LetSuccessorStart();
    producer.Run();
  } else if (kFused && helper >= kWideProducerWarps) {
    PrepareScales(params, helper - kWideProducerWarps);
  }
}

template <typename T, int kTokens, bool kFused>
WideKernelPointer KernelFor(int32_t tile_rows) {
  if (WideDepthGroups(tile_rows) == 2) return WideKernel<T, kTokens, 1, 2, kFused>;
  if (WideRowBlocks(tile_rows) == 2) return WideKernel<T, kTokens, 2, 1, kFused>;
  return WideKernel<T, kTokens, 1, 1, kFused>;
}

template <typename T, bool kFused>
WideKernelPointer KernelFor(const WidePlan& plan) {
  return plan.tokens == 32 ? KernelFor<T, 32, kFused>(plan.tile_rows)
                           : KernelFor<T, 64, kFused>(plan.tile_rows);
}

}  // namespace wide
}  // namespace fathom::kernels::cuda
