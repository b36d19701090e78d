#pragma once

// One row of logits as the sampling kernels see it: in groups of 128 ids, one warp's load, which
// are the same however the row is divided. The first pass leaves each group's greatest logit in
// shared memory; what comes later visits only the groups that can hold what it looks for.
//
// Bias, penalties and banned ids change few logits: those are computed once into `edits` and found
// by a bitmap; the logits themselves are never written.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/bfloat16.h"
#include "kernels/cuda/sampling_order.cuh"
#include "kernels/sampling_args.h"

namespace fathom::kernels::cuda {

inline constexpr int32_t kGroup = 128;
inline constexpr int32_t kMaxClusterBlocks = 8;
inline constexpr int32_t kMaxCandidates = 2048;

// `T` of the functions below: the type of the logits.
struct RowView {
  const void* logits;  // [vocab]
  int32_t vocab;
  bool aligned;            // to four logits
  const uint32_t* mask;    // null: every id is allowed
  const uint32_t* edited;  // null: none is
  const float* edits;      // [vocab], read where `edited`
};

// Shared memory of one block; the tables whose size is the vocabulary's lie behind it.
struct RowShared {
  uint64_t candidates[kMaxCandidates];  // orders
  uint64_t orders[kSamplingWarps];      // scratch of reductions
  double sums[kSamplingWarps];
  NoisyToken tokens[kSamplingWarps];
  NoisyToken cluster_tokens[kMaxClusterBlocks];
  uint32_t cluster_bad[kMaxClusterBlocks];
  NoiseSource noise;
  RowView view;  // here it costs no registers; so do the next
  float greatest;
  float floor;  // of min-p
  uint32_t histogram[256];
  int32_t count;
  int32_t digit;
  uint32_t above;
};

// Of each group: the key of its greatest logit, and the sum of its weights relative to that.
struct GroupTable {
  uint32_t* keys;
  float* masses;
};

__host__ __device__ constexpr int32_t NumGroups(int32_t vocab) {
  return (vocab + kGroup - 1) / kGroup;
}

__host__ __device__ constexpr size_t RowSharedBytes(int32_t vocab) {
  return sizeof(RowShared) + static_cast<size_t>(NumGroups(vocab)) * (4 + kGroup / 32) * 4;
}

// The tables behind RowShared: one pointer, since registers are dear where it is used.
class RowTables {
 public:
  __device__ RowTables(RowShared* shared, int32_t vocab)
      : words_(reinterpret_cast<uint32_t*>(shared + 1)), groups_(NumGroups(vocab)) {}

  // What may be sampled, at the row's temperature.
  __device__ GroupTable adjusted() const {
    return {words_, reinterpret_cast<float*>(words_ + groups_)};
  }
  // The raw logits, at temperature 1.
  __device__ GroupTable raw() const {
    return {words_ + 2 * groups_, reinterpret_cast<float*>(words_ + 3 * groups_)};
  }
  // One bit an id.
  __device__ uint32_t* edited() const { return words_ + 4 * groups_; }

 private:
  uint32_t* words_;
  int32_t groups_;
};

template <typename T>
__device__ RowView RawView(const void* logits, int32_t logit_row, int32_t vocab) {
  const T* row = static_cast<const T*>(logits) + static_cast<size_t>(logit_row) * vocab;
  return {row,     vocab,   reinterpret_cast<uintptr_t>(row) % (4 * sizeof(T)) == 0,
          nullptr, nullptr, nullptr};
}

__device__ inline float LoadLogit(const float* p) { return __ldg(p); }
__device__ inline float LoadLogit(const BFloat16* p) {
  return __uint_as_float(static_cast<uint32_t>(p->bits) << 16);
}

template <typename T>
__device__ float LogitAt(const RowView& view, int32_t id) {
  return LoadLogit(static_cast<const T*>(view.logits) + id);
}

__device__ inline void LoadFour(const float* p, float (&x)[4]) {
  const float4 v = __ldg(reinterpret_cast<const float4*>(p));
  x[0] = v.x;
  x[1] = v.y;
  x[2] = v.z;
  x[3] = v.w;
}
__device__ inline void LoadFour(const BFloat16* p, float (&x)[4]) {
  const uint2 v = __ldg(reinterpret_cast<const uint2*>(p));
  x[0] = __uint_as_float(v.x << 16);
  x[1] = __uint_as_float(v.x & 0xFFFF0000U);
  x[2] = __uint_as_float(v.y << 16);
  x[3] = __uint_as_float(v.y & 0xFFFF0000U);
}

// Raw logits [id, id + 4); -infinity beyond the vocabulary.
template <typename T>
__device__ void LoadQuad(const RowView& view, int32_t id, float (&x)[4]) {
  if (view.aligned && id + 4 <= view.vocab) {
    LoadFour(static_cast<const T*>(view.logits) + id, x);
    return;
  }
  for (int32_t j = 0; j < 4; ++j) {
    x[j] = id + j < view.vocab ? LogitAt<T>(view, id + j) : kNegInf;
  }
}

// The mask's four bits of [id, id + 4).
__device__ inline uint32_t AllowedBits(const RowView& view, int32_t id) {
  if (view.mask == nullptr || id >= view.vocab) return 0xFU;
  return view.mask[id / 32] >> (id % 32);
}

__device__ inline void AdjustQuad(const RowView& view, int32_t id, uint32_t allowed,
                                  float (&x)[4]) {
  if (view.edited != nullptr && id < view.vocab) {
    const uint32_t edited = view.edited[id / 32] >> (id % 32) & 0xFU;
    if (edited != 0) {
      for (int32_t j = 0; j < 4; ++j) {
        if ((edited >> j & 1U) != 0) x[j] = view.edits[id + j];
      }
    }
  }
  for (int32_t j = 0; j < 4; ++j) {
    if ((allowed >> j & 1U) == 0) x[j] = kNegInf;
  }
}

// Calls fn(id, x) with every warp's quads of the groups that may hold an order of `low` or more,
// all lanes of a warp at once, until fn returns false in all of them. Which warp visits what is
// fixed. kBatch groups are in flight together. From the row's end, since that is what the first
// pass left in the cache.
template <typename T, int32_t kBatch = 2, typename Fn>
__device__ void VisitQuads(const RowView& view, const uint32_t* group_keys, uint64_t low, Fn fn) {
  const int32_t lane = threadIdx.x % 32;
  const int32_t warp = threadIdx.x / 32;
  const int32_t groups = NumGroups(view.vocab);
  const auto low_key = static_cast<uint32_t>(low >> 32);
  for (int32_t base = (groups - 1) / kSamplingThreads * kSamplingThreads; base >= 0;
       base -= kSamplingThreads) {
    const int32_t mine = base + lane * kSamplingWarps + warp;
    uint32_t active = __ballot_sync(kAllLanes, mine < groups && group_keys[mine] >= low_key);
    while (active != 0) {
      int32_t ids[kBatch];
      float x[kBatch][4];
      uint32_t allowed[kBatch];
#pragma unroll
      for (int32_t u = 0; u < kBatch; ++u) {
        ids[u] = -1;
        if (active == 0) continue;
        const int32_t bit = __ffs(active) - 1;
        active &= active - 1;
        ids[u] = (base + bit * kSamplingWarps + warp) * kGroup + lane * 4;
        LoadQuad<T>(view, ids[u], x[u]);
        allowed[u] = AllowedBits(view, ids[u]);
      }
#pragma unroll
      for (int32_t u = 0; u < kBatch; ++u) {
        if (ids[u] < 0) continue;
        AdjustQuad(view, ids[u], allowed[u], x[u]);
        if (!fn(ids[u], x[u])) return;
      }
    }
  }
}

// Fills `edited` for all ids and `edits` for those of [begin, end); see sampling_args.h for the
// order of what is done to a logit. The whole block calls it; others' edits are visible after the
// cluster's next barrier.
template <typename T>
__device__ void BuildEdits(const SamplingRow& row, const RowView& raw, int32_t begin, int32_t end,
                           uint32_t* edited, float* edits) {
  const int32_t thread = threadIdx.x;
  for (int32_t i = thread; i < NumGroups(raw.vocab) * (kGroup / 32); i += kSamplingThreads) {
    edited[i] = 0;
  }
  __syncthreads();
  // Whether it was marked before.
  const auto mark = [&](int32_t id) {
    const uint32_t bit = 1U << (id % 32);
    return (atomicOr(&edited[id / 32], bit) & bit) != 0;
  };
  for (int32_t i = thread; i < row.num_bias; i += kSamplingThreads) {
    const int32_t id = row.bias_tokens[i];
    mark(id);
    if (id >= begin && id < end) {
      edits[id] = __fadd_rn(LogitAt<T>(raw, id), row.bias_values[i]);
    }
  }
  __syncthreads();
  const int32_t num_counts = row.counts != nullptr ? *row.num_counts : 0;
  for (int32_t i = thread; i < num_counts; i += kSamplingThreads) {
    const TokenCount seen = row.counts[i];
    const bool biased = mark(seen.token);
    if (seen.token < begin || seen.token >= end) continue;
    float x = biased ? edits[seen.token] : LogitAt<T>(raw, seen.token);
    x = x > 0 ? __fdiv_rn(x, row.repetition_penalty) : __fmul_rn(x, row.repetition_penalty);
    if (seen.in_output > 0) {
      // Rounded step by step, as the CPU does: fused, ties would break differently.
      x = __fsub_rn(
          x, __fadd_rn(row.presence_penalty,
                       __fmul_rn(row.frequency_penalty, static_cast<float>(seen.in_output))));
    }
    edits[seen.token] = x;
  }
  __syncthreads();
  for (int32_t i = thread; i < row.num_banned; i += kSamplingThreads) {
    const int32_t id = row.banned[i];
    mark(id);
    if (id >= begin && id < end) edits[id] = kNegInf;
  }
  __syncthreads();
}

}  // namespace fathom::kernels::cuda
