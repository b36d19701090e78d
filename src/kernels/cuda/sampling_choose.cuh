#pragma once

// The token of one row, by one block, after the pass over it. Top-k rows sort what the best groups
// hold. Without top-k the winner over all tokens usually lies within top-p and min-p, and being the
// winner over more than what they leave, it is then the winner of that: all there is to check is
// the weight of the tokens better than it. If it lies outside, the search goes on among the better
// ones.

#include <cstdint>

#include "kernels/cuda/sampling_select.cuh"
#include "kernels/cuda/sampling_stream.cuh"

namespace fathom::kernels::cuda {

// What a row asks for.
enum RowFilter : uint32_t {
  kGreedy = 1,
  kTopK = 2,
  kTopP = 4,
  kMinP = 8,
};

__device__ inline uint32_t FiltersOf(const SamplingRow& row, int32_t vocab) {
  if (row.temperature == 0) return kGreedy;
  return (row.top_k > 0 && row.top_k < vocab ? kTopK : 0) | (row.top_p < 1 ? kTopP : 0) |
         (row.min_p > 0 ? kMinP : 0);
}

__device__ inline uint32_t FindsOf(const SamplingRow& row, uint32_t filters) {
  uint32_t finds = 0;
  if (filters != 0) finds |= kFindKeys;
  if ((filters & (kTopP | kTopK)) == kTopP) finds |= kFindMasses;
  if ((filters & (kGreedy | kTopK)) == 0) finds |= kFindWinner;
  if (row.num_logprobs >= 0) finds |= kFindRaw;
  return finds;
}

template <typename T>
class RowChooser {
 public:
  __device__ RowChooser(const SamplingRow& row, uint32_t filters, RowShared* shared)
      : row_(row), filters_(filters), shared_(shared) {}

  // -1 when nothing may come. `winner`: over all tokens, where the plan had it computed. Called by
  // the whole block, as is everything below; all threads get the result.
  __device__ int32_t Choose(const NoisyToken& winner) {
    if (filters_ == 0) return winner.id;
    uint64_t best = 0;
    for (int32_t g = threadIdx.x; g < NumGroups(shared_->view.vocab); g += kSamplingThreads) {
      best = groups().keys[g] > best ? groups().keys[g] : best;
    }
    best = BlockMax(best, shared_->orders);
    if (best <= kMaskedKey) return -1;
    if (Has(kGreedy)) return LowestWith(static_cast<uint32_t>(best));

    SetLimits(LogitOfKey(static_cast<uint32_t>(best)));
    uint64_t low = kFirstAllowed;
    if (Has(kTopK)) {
      const uint32_t key = KthGroupKey(groups().keys, NumGroups(shared_->view.vocab), row_.top_k);
      low = Larger(low, static_cast<uint64_t>(key) << 32);
    } else {
      if (Has(kTopP)) wanted_ = GroupsMass() * static_cast<double>(row_.top_p);
      if (winner.logit >= shared_->floor && WithinTopP(winner)) return winner.id;
      low = Larger(Larger(OrderOf(winner.logit, winner.id) + 1, OrderOf(shared_->floor, -1)),
                   LeastOfTopP());
    }
    int32_t count = Collect<T>(shared_->view, groups().keys, low, shared_);
    if (count > kMaxCandidates && Has(kTopK)) {
      low = SelectKth<T>(shared_->view, groups().keys, low, row_.top_k, shared_);
      if (row_.top_k <= kMaxCandidates)
        count = Collect<T>(shared_->view, groups().keys, low, shared_);
    }
    return count <= kMaxCandidates ? ChooseOfCandidates(count) : ChooseByRounds(low);
  }

 private:
  __device__ bool Has(RowFilter filter) const { return (filters_ & filter) != 0; }

  __device__ GroupTable groups() const {
    return RowTables(shared_, shared_->view.vocab).adjusted();
  }

  __device__ static uint64_t Larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

  __device__ void SetLimits(float greatest) {
    if (threadIdx.x == 0) {
      shared_->greatest = greatest;
      shared_->floor =
          Has(kMinP) ? __fadd_rn(greatest, __fmul_rn(row_.temperature, logf(row_.min_p))) : kNegInf;
    }
    __syncthreads();
  }

  __device__ float Weight(float logit) const {
    return exp2f((logit - shared_->greatest) * shared_->noise.weight_scale);
  }

  __device__ int32_t LowestWith(uint32_t key) {
    uint64_t best = 0;
    VisitQuads<T>(shared_->view, groups().keys, static_cast<uint64_t>(key) << 32,
                  [&](int32_t id, const float(&x)[4]) {
                    for (int32_t j = 0; j < 4; ++j) best = Larger(best, OrderOf(x[j], id + j));
                    return true;
                  });
    return IdOfOrder(BlockMax(best, shared_->orders));
  }

  __device__ double GroupsMass() {
    double sum = 0;
    for (int32_t g = threadIdx.x; g < NumGroups(shared_->view.vocab); g += kSamplingThreads) {
      sum += static_cast<double>(groups().masses[g]) *
             static_cast<double>(Weight(LogitOfKey(groups().keys[g])));
    }
    return BlockSum(sum, shared_->sums);
  }

  // The weight of the orders of `low` or more.
  __device__ double MassFrom(uint64_t low) {
    double sum = 0;
    VisitQuads<T>(shared_->view, groups().keys, low, [&](int32_t id, const float(&x)[4]) {
      float quad = 0;
      for (int32_t j = 0; j < 4; ++j) {
        if (OrderOf(x[j], id + j) >= low) quad += Weight(x[j]);
      }
      sum += static_cast<double>(quad);
      return true;
    });
    return BlockSum(sum, shared_->sums);
  }

  // Top-p keeps a token if those better than it have not reached what is wanted; the best stays
  // whatever is wanted.
  __device__ bool WithinTopP(const NoisyToken& token) {
    if (!Has(kTopP)) return true;
    const double before = MassFrom(OrderOf(token.logit, token.id) + 1);
    return before < wanted_ || before == 0;
  }

  // The tokens below this have less than 1 - top_p of the weight together, however they share it.
  __device__ uint64_t LeastOfTopP() const {
    if (!Has(kTopP)) return 0;
    const double spared = (1 - static_cast<double>(row_.top_p)) *
                          (wanted_ / fmax(static_cast<double>(row_.top_p), 1e-30)) /
                          shared_->view.vocab;
    const float least =
        shared_->greatest + row_.temperature * (logf(static_cast<float>(spared)) - 0.01F);
    return OrderOf(fminf(least - 1e-6F * fabsf(least), shared_->greatest), -1) &
           ~uint64_t{0xFFFFFFFFU};
  }

  __device__ int32_t ChooseOfCandidates(int32_t count) {
    SortCandidates(count, shared_->candidates);
    if (Has(kTopK) && row_.top_k < count) count = row_.top_k;
    const int32_t share = (count + kSamplingThreads - 1) / kSamplingThreads;
    const int32_t begin = min(static_cast<int32_t>(threadIdx.x) * share, count);
    const int32_t end = min(begin + share, count);
    double before = 0;
    if (Has(kTopP)) {
      double own = 0;
      for (int32_t i = begin; i < end; ++i) own += Weight(LogitOfOrder(shared_->candidates[i]));
      before = SumOfThreadsBefore(own);
      if (Has(kTopK)) {
        wanted_ = BlockSum(own, shared_->sums) * static_cast<double>(row_.top_p);
      }
    }
    const NoiseSource& source = shared_->noise;
    NoisyToken best;
    for (int32_t i = begin; i < end; ++i) {
      const float logit = LogitOfOrder(shared_->candidates[i]);
      const bool kept = i == 0 || !Has(kTopP) || before < wanted_;
      if (Has(kTopP)) before += static_cast<double>(Weight(logit));
      if (!kept || logit < shared_->floor) break;
      const int32_t id = IdOfOrder(shared_->candidates[i]);
      const Philox4x32 draws =
          SamplingDraws(source.seed, source.choice, source.position, static_cast<uint32_t>(id) / 4);
      const NoisyToken token{logit, GumbelNoise(DrawOf(draws, id % 4)), id};
      if (Beats(token, best, source.exact_inverse)) best = token;
    }
    return BlockBest(best, source.exact_inverse, shared_->tokens).id;
  }

  __device__ double SumOfThreadsBefore(double own) {
    const int32_t lane = threadIdx.x % 32;
    const int32_t warp = threadIdx.x / 32;
    double sum = own;
    for (int32_t lanes = 1; lanes < 32; lanes *= 2) {
      const double lower = __shfl_up_sync(kAllLanes, sum, lanes);
      if (lane >= lanes) sum += lower;
    }
    if (lane == 31) shared_->sums[warp] = sum;
    const double lower = __shfl_up_sync(kAllLanes, sum, 1);
    __syncthreads();
    double before = lane == 0 ? 0 : lower;
    for (int32_t i = 0; i < warp; ++i) before += shared_->sums[i];
    __syncthreads();
    return before;
  }

  // The general way, over the row itself: the winner of the orders from `low` on is the answer if
  // top-p keeps it; else the search goes on among those better than it.
  __device__ int32_t ChooseByRounds(uint64_t low) {
    if (Has(kTopK) && Has(kTopP)) {
      wanted_ = MassFrom(low) * static_cast<double>(row_.top_p);
    }
    low = Larger(low, OrderOf(shared_->floor, -1));
    const NoiseSource& source = shared_->noise;
    for (;;) {
      NoiseSearch search(source);
      VisitQuads<T, 1>(shared_->view, groups().keys, low, [&](int32_t id, const float(&x)[4]) {
        float left[4];
        for (int32_t j = 0; j < 4; ++j) left[j] = OrderOf(x[j], id + j) >= low ? x[j] : kNegInf;
        search.Consider(id, left);
        return true;
      });
      const NoisyToken best = BlockBest(search.best(), source.exact_inverse, shared_->tokens);
      if (WithinTopP(best)) return best.id;
      low = OrderOf(best.logit, best.id) + 1;
    }
  }

  const SamplingRow& row_;
  const uint32_t filters_;
  RowShared* const shared_;
  double wanted_ = 0;  // the weight that top-p keeps
};

}  // namespace fathom::kernels::cuda
