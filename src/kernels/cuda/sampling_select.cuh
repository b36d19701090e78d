#pragma once

// The best tokens of a row, exactly, by one block. A lower bound on the k-th best comes from the
// groups' greatest logits (k groups hold at least k tokens that good), and what reaches it is
// usually little: it is gathered into shared memory and sorted. Where it is too much, the k-th
// order is found digit by digit over the row.

#include <cstdint>

#include "kernels/cuda/sampling_row.cuh"

namespace fathom::kernels::cuda {

// A key that at least k groups reach; the greatest such of 18 leading bits. 0 if there are fewer.
__device__ inline uint32_t KthGroupKey(const uint32_t* keys, int32_t groups, int32_t k) {
  if (groups < k) return 0;
  uint32_t found = 0;
  for (uint32_t bit = 1U << 31; bit >= 1U << 14; bit >>= 1) {
    int32_t reach = 0;
    for (int32_t base = 0; base < groups; base += kSamplingThreads) {
      const int32_t i = base + static_cast<int32_t>(threadIdx.x);
      reach += __syncthreads_count(i < groups && keys[i] >= (found | bit));
    }
    if (reach >= k) found |= bit;
  }
  return found;
}

// Puts the orders of `low` or more into shared->candidates, in no order. Returns how many there
// are, or some number above kMaxCandidates.
template <typename T>
__device__ int32_t Collect(const RowView& view, const uint32_t* group_keys, uint64_t low,
                           RowShared* shared) {
  if (threadIdx.x == 0) shared->count = 0;
  __syncthreads();
  const uint32_t lower_lanes = (1U << (threadIdx.x % 32)) - 1;
  VisitQuads<T>(view, group_keys, low, [&](int32_t id, const float(&x)[4]) {
    int32_t seen = 0;
    for (int32_t j = 0; j < 4; ++j) {
      const uint64_t order = OrderOf(x[j], id + j);
      const bool takes = order >= low && id + j < view.vocab;
      const uint32_t takers = __ballot_sync(kAllLanes, takes);
      if (takers == 0) continue;
      int32_t at = 0;
      if (threadIdx.x % 32 == 0) at = atomicAdd(&shared->count, __popc(takers));
      at = __shfl_sync(kAllLanes, at, 0);
      seen = at + __popc(takers);
      at += __popc(takers & lower_lanes);
      if (takes && at < kMaxCandidates) shared->candidates[at] = order;
    }
    return seen <= kMaxCandidates;
  });
  __syncthreads();
  const int32_t count = shared->count;
  __syncthreads();
  return count;
}

// Best first. Bitonic, padded with zeros to a power of two.
__device__ inline void SortCandidates(int32_t count, uint64_t* orders) {
  int32_t size = 2;
  while (size < count) size *= 2;
  const int32_t thread = threadIdx.x;
  for (int32_t i = count + thread; i < size; i += kSamplingThreads) orders[i] = 0;
  __syncthreads();
  for (int32_t run = 2; run <= size; run *= 2) {
    for (int32_t stride = run / 2; stride > 0; stride /= 2) {
      for (int32_t i = thread; i < size / 2; i += kSamplingThreads) {
        const int32_t at = 2 * i - (i & (stride - 1));
        const uint64_t a = orders[at];
        const uint64_t b = orders[at + stride];
        if ((a < b) == ((at & run) == 0)) {
          orders[at] = b;
          orders[at + stride] = a;
        }
      }
      __syncthreads();
    }
  }
}

// An order that exactly k of those of `low` or more reach; `low` where there are fewer than k.
template <typename T>
__device__ uint64_t SelectKth(const RowView& view, const uint32_t* group_keys, uint64_t low,
                              int32_t k, RowShared* shared) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  uint64_t prefix = 0;
  auto wanted = static_cast<uint32_t>(k);
  for (int32_t shift = 56; shift >= 0; shift -= 8) {
    if (thread < 256) shared->histogram[thread] = 0;
    if (thread == 0) shared->digit = -1;
    __syncthreads();
    VisitQuads<T>(view, group_keys, low > prefix ? low : prefix,
                  [&](int32_t id, const float(&x)[4]) {
                    for (int32_t j = 0; j < 4; ++j) {
                      const uint64_t order = OrderOf(x[j], id + j);
                      const bool same = shift == 56 || (order ^ prefix) >> (shift + 8) == 0;
                      if (order >= low && same && id + j < view.vocab) {
                        atomicAdd(&shared->histogram[order >> shift & 255], 1U);
                      }
                    }
                    return true;
                  });
    __syncthreads();
    if (thread < 256) {
      uint32_t above = 0;
      for (int32_t d = thread + 1; d < 256; ++d) above += shared->histogram[d];
      if (above < wanted && above + shared->histogram[thread] >= wanted) {
        shared->digit = thread;
        shared->above = above;
      }
    }
    __syncthreads();
    const int32_t digit = shared->digit;
    if (digit < 0) return low;
    wanted -= shared->above;
    prefix |= static_cast<uint64_t>(digit) << shift;
    const bool all = shared->histogram[digit] == wanted;
    __syncthreads();
    if (all) break;
  }
  return prefix > low ? prefix : low;
}

// log(sum(exp(raw logits))), of the raw groups.
__device__ inline double LogSumOf(const GroupTable& raw, int32_t groups, RowShared* shared) {
  uint64_t best = 0;
  for (int32_t g = threadIdx.x; g < groups; g += kSamplingThreads) {
    best = raw.keys[g] > best ? raw.keys[g] : best;
  }
  const float top = LogitOfKey(static_cast<uint32_t>(BlockMax(best, shared->orders)));
  double sum = 0;
  for (int32_t g = threadIdx.x; g < groups; g += kSamplingThreads) {
    sum += static_cast<double>(raw.masses[g]) *
           static_cast<double>(exp2f((LogitOfKey(raw.keys[g]) - top) * kLog2E));
  }
  return static_cast<double>(top) + log(BlockSum(sum, shared->sums));
}

// Writes the `count` best raw logits, best first, and -1 up to `width`.
template <typename T>
__device__ void WriteTopLogprobs(const RowView& raw, const uint32_t* raw_keys, double log_sum,
                                 int32_t count, int32_t width, RowShared* shared, int32_t* tokens,
                                 float* logprobs) {
  int32_t found = 0;
  if (count > 0) {
    uint64_t low = static_cast<uint64_t>(KthGroupKey(raw_keys, NumGroups(raw.vocab), count)) << 32;
    found = Collect<T>(raw, raw_keys, low, shared);
    if (found > kMaxCandidates) {
      low = SelectKth<T>(raw, raw_keys, low, count, shared);
      found = Collect<T>(raw, raw_keys, low, shared);
    }
    SortCandidates(found, shared->candidates);
    found = found < count ? found : count;
  }
  for (int32_t i = threadIdx.x; i < width; i += kSamplingThreads) {
    const uint64_t order = i < found ? shared->candidates[i] : 0;
    tokens[i] = i < found ? IdOfOrder(order) : -1;
    logprobs[i] = i < found ? static_cast<float>(static_cast<double>(LogitOfOrder(order)) - log_sum)
                            : kNegInf;
  }
  __syncthreads();
}

}  // namespace fathom::kernels::cuda
