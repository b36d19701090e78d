#pragma once

// What multiplies in prefill on Hopper: a warpgroup and its 64 rows of a tile.

#include "kernels/cuda/attention_prefill_memory.cuh"

namespace fathom::kernels::cuda::hopper {

// Barriers of the block besides __syncthreads; a consumer adds its index to the first of two.
inline constexpr int32_t kTurn = 1;
inline constexpr int32_t kZeroed = 3;
inline constexpr int32_t kGroup = 4;

inline constexpr int32_t kChains = 4;

// What is subtracted from a row's scores may lag behind their maximum by so much, in powers of two:
// weights then stay small enough, and what is summed up is seldom taken to a new maximum.
inline constexpr float kSlackLog2 = 8;

// Lane q of four has 32-bit words i of its own, and gets words q of the four, in their order.
__device__ inline uint4 TransposedByFour(uint4 v) {
  const bool odd = threadIdx.x % 2 != 0;
  const bool high = threadIdx.x / 2 % 2 != 0;
  const auto swap = [](uint32_t& a, uint32_t& b, bool upper, int32_t distance) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, upper ? a : b, distance);
    (upper ? a : b) = other;
  };
  swap(v.x, v.y, odd, 1);
  swap(v.z, v.w, odd, 1);
  swap(v.x, v.z, high, 2);
  swap(v.y, v.w, high, 2);
  return v;
}

// Index j of the statistics is row lane / 4 + 8 * j of a warp's 16.
template <typename T, int kDim>
class Consumer {
  using S = Shape<kDim>;

 public:
  __device__ Consumer(const PagedAttentionArgs& args, TileBoard<kDim>& board,
                      const Memory<kDim>& memory, float scale_log2)
      : args_(args),
        board_(board),
        memory_(memory),
        scale_log2_(scale_log2),
        // By a shuffle, so that the compiler sees a warp agree.
        index_(__shfl_sync(kAllLanes, static_cast<int32_t>(threadIdx.x) / kGroupThreads - 1, 0)),
        thread_(static_cast<int32_t>(threadIdx.x) % kGroupThreads),
        lane_(static_cast<int32_t>(threadIdx.x) % 32) {}

  __device__ void Run() {
    tile_ = board_.Take();
    if (tile_.num_rows == 0) return;
    LoadQueries(tile_);
    do {
      next_ = Tile();
      Attend();
      tile_ = next_;
    } while (tile_.num_rows > 0);
  }

 private:
  // One tile; its queries are on their way.
  __device__ void Attend() {
    step_ = tile_.keys.first / kKeys;
    const int32_t last_step = tile_.keys.last / kKeys;
    const KeyRange seen = tile_.SeenByAll(args_.window);
    for (int32_t j = 0; j < 2; ++j) {
      maximum_[j] = -INFINITY;
      sum_[j] = 0;
    }
    float output[kDim / 8][4] = {};
    float score[kKeys / 8][4];
    uint32_t weight[kKeys / 16][4];
    CopyAsyncWait<0>();
    FenceAsyncProxy();
    MeetAt<kGroupThreads>(kGroup + index_);
    WaitPhase(memory_.KeysFull(keys_.index), keys_.parity);
    MultiplyScores(score);
    WaitProducts<0>();
    Pin(score);
    Release(memory_.KeysEmpty(keys_.index));
    keys_.Advance();
    if (index_ == 1 && step_ < last_step) ReportAt<kConsumerThreads>(kTurn);
    if (step_ == last_step) TakeNext();
    float rescale[2];
    Soften(score, seen, rescale);
    Pack(score, weight);
    while (step_ < last_step) {
      WaitForValues();
      ++step_;
      WaitPhase(memory_.KeysFull(keys_.index), keys_.parity);
      MeetAt<kConsumerThreads>(kTurn + index_);
      MultiplyScores(score);
      MultiplyValues(output, weight);
      // Nobody waits for the second's last report.
      if (index_ == 0 || step_ < last_step) ReportAt<kConsumerThreads>(kTurn + 1 - index_);
      WaitProducts<1>();
      Pin(score);
      Release(memory_.KeysEmpty(keys_.index));
      keys_.Advance();
      if (step_ == last_step) TakeNext();
      Soften(score, seen, rescale);
      // All lanes, always. The assembler takes it for a branch on the sums: it would otherwise move
      // the wait in front of the exponentials, and nothing would overlap.
      __syncwarp(sum_[0] < 0 || sum_[1] < 0 ? 1U : kAllLanes);
      WaitProducts<0>();
      Pin(output);
      Release(memory_.ValuesEmpty(values_.index));
      values_.Advance();
      if (__any_sync(kAllLanes, rescale[0] != 1 || rescale[1] != 1)) {
#pragma unroll
        for (int32_t i = 0; i < kDim / 8; ++i) {
          for (int32_t j = 0; j < 4; ++j) output[i][j] *= rescale[j / 2];
        }
      }
      Pack(score, weight);
    }
    WaitForValues();
    MultiplyValues(output, weight);
    WaitProducts<0>();
    Pin(output);
    Release(memory_.ValuesEmpty(values_.index));
    values_.Advance();
    Store(output);
  }

  // Once the tile's last scores are there, its queries have served.
  __device__ void TakeNext() {
    next_ = board_.Take();
    if (next_.num_rows > 0) LoadQueries(next_);
  }

  // Rows that are padding become zero.
  __device__ void LoadQueries(const Tile& tile) const {
    const int32_t heads = args_.num_q_heads + 2 * args_.kv.num_kv_heads;
#pragma unroll
    for (int32_t i = 0; i < kGroupRows * kDim / 8 / kGroupThreads; ++i) {
      const int32_t vector = i * kGroupThreads + thread_;
      const int32_t row = index_ * kGroupRows + vector / (kDim / 8);
      const int32_t piece = vector % (kDim / 8);
      const bool valid = row < tile.num_rows;
      const T* from =
          static_cast<const T*>(args_.qkv) + tile.Offset(valid ? row : 0, heads, kDim) + piece * 8;
      const uint32_t to =
          memory_.Queries() + piece / 8 * S::kQueryColumnBytes + Swizzled(row, piece % 8);
      CopyAsync16OrZero(to, from, valid);
    }
    CopyAsyncCommit();
  }

  // One arrival a warp, when all of its lanes are done with a tile.
  __device__ void Release(uint32_t barrier) const {
    if (lane_ == 0) Arrive(barrier);
  }

  __device__ void MultiplyScores(float (&score)[kKeys / 8][4]) const {
    const uint32_t queries = memory_.Queries() + index_ * kGroupRows * 128;
    const uint32_t keys = memory_.Keys(keys_.index);
    Pin(score);
    FenceProducts();
#pragma unroll
    for (int32_t i = 0; i < kDim / 16; ++i) {
      MultiplyRows<T>(score, RowOperand(queries + i / 4 * S::kQueryColumnBytes + i % 4 * 32),
                      RowOperand(keys + i / 4 * S::kKeyColumnBytes + i % 4 * 32), i > 0);
    }
    CommitProducts();
  }

  __device__ void MultiplyValues(float (&output)[kDim / 8][4],
                                 uint32_t (&weight)[kKeys / 16][4]) const {
    Pin(output);
    FenceProducts();
#pragma unroll
    for (int32_t i = 0; i < kKeys / 16; ++i) {
      MultiplyColumns<T>(
          output, weight[i],
          ColumnOperand(memory_.Values(values_.index) + i * 16 * 128, S::kKeyColumnBytes));
    }
    CommitProducts();
  }

  // Those of step_. What nobody may see must be zero, for it may be anything and a weight of zero
  // does not silence a NaN.
  __device__ void WaitForValues() const {
    WaitPhase(memory_.ValuesFull(values_.index), values_.parity);
    const int32_t begin = step_ * kKeys;
    if (begin >= tile_.keys.first && begin + kKeys - 1 <= tile_.keys.last) return;
    for (int32_t vector = index_ * kGroupThreads + thread_; vector < kKeys * kDim / 8;
         vector += kConsumerThreads) {
      const int32_t row = vector / (kDim / 8);
      const int32_t piece = vector % (kDim / 8);
      if (begin + row >= tile_.keys.first && begin + row <= tile_.keys.last) continue;
      const uint32_t at =
          memory_.Values(values_.index) + piece / 8 * S::kKeyColumnBytes + Swizzled(row, piece % 8);
      *reinterpret_cast<uint4*>(memory_.At(at)) = make_uint4(0, 0, 0, 0);
    }
    FenceAsyncProxy();
    MeetAt<kConsumerThreads>(kZeroed);
  }

  // Scores of step_ become weights. `rescale` takes earlier sums to the new maxima.
  __device__ void Soften(float (&score)[kKeys / 8][4], KeyRange seen, float (&rescale)[2]) {
    const int32_t begin = step_ * kKeys;
    if (begin < seen.first || begin + kKeys - 1 > seen.last) Mask(score, begin);
    // Several of each, for one would be a chain of operations that wait for each other.
    float highest[2][kChains];
#pragma unroll
    for (int32_t n = 0; n < kKeys / 8; ++n) {
      for (int32_t j = 0; j < 2; ++j) {
        const float higher = fmaxf(score[n][2 * j], score[n][2 * j + 1]);
        float& chain = highest[j][n % kChains];
        chain = n < kChains ? higher : fmaxf(chain, higher);
      }
    }
    float subtrahend[2];
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      float all = maximum_[j];
      for (int32_t c = 0; c < kChains; ++c) all = fmaxf(all, highest[j][c]);
      for (int32_t distance = 1; distance < 4; distance *= 2) {
        all = fmaxf(all, __shfl_xor_sync(kAllLanes, all, distance));
      }
      const bool outgrown = (all - maximum_[j]) * scale_log2_ > kSlackLog2;
      const float highest_then = maximum_[j];
      if (outgrown) maximum_[j] = all;
      subtrahend[j] = Subtrahend(maximum_[j]) * scale_log2_;
      rescale[j] = outgrown ? FastExp2(highest_then * scale_log2_ - subtrahend[j]) : 1.0F;
    }
    float total[2][kChains] = {};
#pragma unroll
    for (int32_t n = 0; n < kKeys / 8; ++n) {
      for (int32_t i = 0; i < 4; ++i) {
        score[n][i] = FastExp2(score[n][i] * scale_log2_ - subtrahend[i / 2]);
        total[i / 2][(2 * n + i) % kChains] += score[n][i];
      }
    }
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      static_assert(kChains == 4);
      sum_[j] = sum_[j] * rescale[j] + ((total[j][0] + total[j][1]) + (total[j][2] + total[j][3]));
    }
  }

  __device__ void Mask(float (&score)[kKeys / 8][4], int32_t begin) const {
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      const KeyRange seen = VisibleKeys(tile_.Position(Row(j)), args_.window);
#pragma unroll
      for (int32_t n = 0; n < kKeys / 8; ++n) {
        for (int32_t i = 0; i < 2; ++i) {
          const int32_t position = begin + n * 8 + lane_ % 4 * 2 + i;
          if (position < seen.first || position > seen.last) score[n][2 * j + i] = -INFINITY;
        }
      }
    }
  }

  // Of the tile.
  __device__ int32_t Row(int32_t j) const {
    return index_ * kGroupRows + thread_ / 32 * 16 + j * 8 + lane_ / 4;
  }

  __device__ void Pack(const float (&score)[kKeys / 8][4],
                       uint32_t (&weight)[kKeys / 16][4]) const {
#pragma unroll
    for (int32_t k = 0; k < kKeys / 16; ++k) {
      for (int32_t j = 0; j < 4; ++j) {
        const float* pair = &score[2 * k + j / 2][j % 2 * 2];
        weight[k][j] = PackPair<T>(pair[0], pair[1]);
      }
    }
  }

  // Four lanes share a row: each writes a quarter of every 64 bytes.
  __device__ void Store(const float (&output)[kDim / 8][4]) const {
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      float total = sum_[j];
      for (int32_t distance = 1; distance < 4; distance *= 2) {
        total += __shfl_xor_sync(kAllLanes, total, distance);
      }
      const float factor = 1.0F / total;
      const bool valid = Row(j) < tile_.num_rows;
      T* out = static_cast<T*>(args_.out) +
               tile_.Offset(valid ? Row(j) : 0, args_.num_q_heads, kDim) + lane_ % 4 * 8;
#pragma unroll
      for (int32_t n = 0; n < kDim / 8; n += 4) {
        const auto pair = [&](int32_t i) {
          return PackPair<T>(output[n + i][2 * j] * factor, output[n + i][2 * j + 1] * factor);
        };
        const uint4 v = TransposedByFour(make_uint4(pair(0), pair(1), pair(2), pair(3)));
        if (valid) *reinterpret_cast<uint4*>(out + n * 8) = v;
      }
    }
  }

  const PagedAttentionArgs& args_;
  TileBoard<kDim>& board_;
  const Memory<kDim> memory_;
  const float scale_log2_;
  const int32_t index_;
  const int32_t thread_;
  const int32_t lane_;
  Tile tile_;
  Tile next_;
  int32_t step_ = 0;       // of the sequence's keys, by kKeys
  Place<kStages> keys_;    // whose scores come next
  Place<kStages> values_;  // that are multiplied next
  float maximum_[2];       // as it was when it last outgrew the slack
  float sum_[2];
};

}  // namespace fathom::kernels::cuda::hopper
