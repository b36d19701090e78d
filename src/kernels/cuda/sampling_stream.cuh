#pragma once

// The pass over a whole row, divided among the blocks of a cluster, at the memory's rate: whether
// the logits are finite, what each group of ids holds, and, where it is wanted, the winner of logit
// / temperature + noise over all tokens. The results lie in the first block's shared memory after
// the cluster's next barrier.

#include <cooperative_groups.h>

#include <cstdint>

#include "kernels/cuda/sampling_row.cuh"

namespace fathom::kernels::cuda {

// What the pass is to find, as bits, which cost one register.
enum StreamFind : uint32_t {
  kFindKeys = 1,    // the adjusted groups' greatest logits
  kFindMasses = 2,  // and weights
  kFindWinner = 4,  // of the noisy tokens
  kFindRaw = 8,     // the raw groups' greatest logits and weights
};

// Into shared memory, where it costs no registers. One thread calls it, a barrier follows.
__device__ inline void SetNoise(const SamplingRow& row, NoiseSource* noise) {
  const double exact = row.temperature > 0 ? 1 / static_cast<double>(row.temperature) : 0;
  const auto inverse = static_cast<float>(fmin(exact, 1e30));
  *noise = {row.seed, row.choice, row.position, exact, inverse, kLog2E * inverse};
}

// One thread's search for the winner. Noise costs two logarithms, so it is computed only where a
// bound on it lets the token pass the best that is known: of this thread or, after ShareInWarp, of
// its warp.
class NoiseSearch {
 public:
  __device__ explicit NoiseSearch(const NoiseSource& source)
      : source_(source), inverse_temperature_(source.inverse_temperature) {}

  __device__ void Consider(int32_t id, const float (&x)[4]) {
    const float top = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (!MayWin(top, kLargestNoise)) return;
    const Philox4x32 draws = SamplingDraws(source_.seed, source_.choice, source_.position,
                                           static_cast<uint32_t>(id) / 4);
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      if (!MayWin(x[j], NoiseBound(draws.v[j]))) continue;
      const NoisyToken token{x[j], GumbelNoise(draws.v[j]), id + j};
      if (!Beats(token, best_, source_.exact_inverse)) continue;
      best_ = token;
      bar_logit_ = token.logit;
      bar_noise_ = token.noise - kNoiseSlack;
    }
  }

  // Gives every lane the warp's bar, about. Called by all lanes.
  __device__ void ShareInWarp() {
    const uint32_t top_key = __reduce_max_sync(kAllLanes, OrderKey(best_.logit));
    if (top_key == kMaskedKey) return;
    const float ahead = (best_.logit - LogitOfKey(top_key)) * inverse_temperature_ + best_.noise;
    const uint32_t key = OrderKey(best_.id < 0 ? kNegInf : ahead);
    const uint32_t best_key = __reduce_max_sync(kAllLanes, key);
    const int32_t owner = __ffs(__ballot_sync(kAllLanes, key == best_key)) - 1;
    bar_logit_ = __shfl_sync(kAllLanes, best_.logit, owner);
    bar_noise_ = __shfl_sync(kAllLanes, best_.noise, owner) - kNoiseSlack;
  }

  __device__ const NoisyToken& best() const { return best_; }

 private:
  // A logit of -infinity gives NaN or -infinity here: no.
  __device__ bool MayWin(float logit, float noise) const {
    return (logit - bar_logit_) * inverse_temperature_ + noise > bar_noise_;
  }

  const NoiseSource& source_;
  const float inverse_temperature_;
  NoisyToken best_;
  float bar_logit_ = kNegInf;
  float bar_noise_ = 0;
};

__device__ inline float MaxOfFour(const float (&x)[4]) {
  return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
}

// Of the warp's group, in every lane.
__device__ inline uint32_t GroupKey(const float (&x)[4]) {
  return __reduce_max_sync(kAllLanes, OrderKey(MaxOfFour(x)));
}

__device__ inline float GroupMass(const float (&x)[4], uint32_t key, float scale) {
  const float top = fmaxf(LogitOfKey(key), kLowestFloat);
  float sum = 0;
  for (int32_t j = 0; j < 4; ++j) sum += exp2f((x[j] - top) * scale);
  for (int32_t lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  return sum;
}

// One warp's group: id is the lane's first.
template <typename T>
__device__ void StreamGroup(const RowView& view, uint32_t finds, float weight_scale,
                            const RowTables& tables, int32_t group, int32_t id, uint32_t allowed,
                            float (&x)[4], bool* bad, NoiseSearch* search) {
#pragma unroll
  for (int32_t j = 0; j < 4; ++j) *bad |= !(x[j] < -kNegInf);
  const bool first_lane = threadIdx.x % 32 == 0;
  if ((finds & kFindRaw) != 0) {
    const uint32_t key = GroupKey(x);
    const float mass = GroupMass(x, key, kLog2E);
    if (first_lane) {
      tables.raw().keys[group] = key;
      tables.raw().masses[group] = mass;
    }
  }
  if (view.mask != nullptr || view.edited != nullptr) AdjustQuad(view, id, allowed, x);
  if ((finds & kFindKeys) != 0) {
    const uint32_t key = GroupKey(x);
    if (first_lane) tables.adjusted().keys[group] = key;
    if ((finds & kFindMasses) != 0) {
      const float mass = GroupMass(x, key, weight_scale);
      if (first_lane) tables.adjusted().masses[group] = mass;
    }
  }
  if ((finds & kFindWinner) != 0) search->Consider(id, x);
}

// Whether any block met NaN or +infinity.
__device__ inline bool AnyBad(const RowShared& first, int32_t blocks) {
  uint32_t bad = 0;
  for (int32_t i = 0; i < blocks; ++i) bad |= first.cluster_bad[i];
  return bad != 0;
}

// The groups [begin, end) by this block. `first`, `first_tables`: the shared memory of the
// cluster's first block.
template <typename T>
__device__ void StreamRow(const RowView& view, uint32_t finds, int32_t begin, int32_t end,
                          int32_t rank, RowShared* own, RowShared* first,
                          const RowTables& first_tables) {
  constexpr int32_t kBatch = 4;
  const int32_t lane = threadIdx.x % 32;
  const int32_t warp = threadIdx.x / 32;
  bool bad = false;
  NoiseSearch search(own->noise);
  for (int32_t g = begin + warp * kBatch; g < end; g += kSamplingWarps * kBatch) {
    const int32_t id = g * kGroup + lane * 4;
    float x[kBatch][4];
    uint32_t allowed[kBatch];
    // One branch for the whole batch, so that its loads are in flight together.
    if (view.aligned && g + kBatch <= end && (g + kBatch) * kGroup <= view.vocab) {
#pragma unroll
      for (int32_t u = 0; u < kBatch; ++u)
        LoadFour(static_cast<const T*>(view.logits) + id + u * kGroup, x[u]);
    } else {
#pragma unroll
      for (int32_t u = 0; u < kBatch; ++u) LoadQuad<T>(view, id + u * kGroup, x[u]);
    }
#pragma unroll
    for (int32_t u = 0; u < kBatch; ++u) allowed[u] = AllowedBits(view, id + u * kGroup);
#pragma unroll
    for (int32_t u = 0; u < kBatch; ++u) {
      if (g + u >= end) break;
      StreamGroup<T>(view, finds, own->noise.weight_scale, first_tables, g + u, id + u * kGroup,
                     allowed[u], x[u], &bad, &search);
    }
    if ((finds & kFindWinner) != 0) search.ShareInWarp();
  }
  const bool any_bad = __syncthreads_or(bad) != 0;
  if (threadIdx.x == 0) first->cluster_bad[rank] = any_bad ? 1 : 0;
  if ((finds & kFindWinner) != 0) {
    const NoisyToken best = BlockBest(search.best(), own->noise.exact_inverse, own->tokens);
    if (threadIdx.x == 0) first->cluster_tokens[rank] = best;
  }
}

}  // namespace fathom::kernels::cuda
