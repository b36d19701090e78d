#pragma once

// What the decode kernel does where RotaryKvWrite is fused into it. Queries are normalised and
// rotated in the fragments they were loaded to. The position of the step's own token is nowhere
// read from the cache: the warp that attends to it makes its key and value itself, writes them to
// the cache, and lays the same bits over the hole that the loader left in the chunk.

#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/rotary_head.cuh"

namespace fathom::kernels::cuda::decode {

template <typename T>
__device__ inline float2 Unpacked(uint32_t pair) {
  Pack<T, 2> both;
  memcpy(&both, &pair, sizeof(both));
  return make_float2(ToFloat(both.v[0]), ToFloat(both.v[1]));
}

// Calls `use` for each pair of registers of a fragment of queries that a lane rotates: elements
// (2c, 2c + 1) + i * 16 + j * 8 of the lower half of a head, c = lane % 4, and of the upper.
template <int kDim, typename Use>
__device__ void ForHalves(const Use& use) {
#pragma unroll
  for (int32_t i = 0; i < kDim / 32; ++i) {
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) use(i, j, i + kDim / 32);
  }
}

// Two floats for each register of such a fragment: `at` is what belongs to elements 0 and up. Plain
// loads, as those of the queries.
__device__ inline float2 LoadColumns(const float* at, int32_t i, int32_t j) {
  return *reinterpret_cast<const float2*>(at + i * 16 + j * 8 + threadIdx.x % 4 * 2);
}

// RMS norm of every query.
template <typename T, int kDim, int kHeadTiles>
__device__ void NormalizeQueries(uint32_t (&query)[kHeadTiles][kDim / 16][2], const float* weight,
                                 float eps) {
  float2 weights[kDim / 16][2];
  ForHalves<kDim>([&](int32_t low, int32_t j, int32_t high) {
    weights[low][j] = LoadColumns(weight, low, j);
    weights[high][j] = LoadColumns(weight, high, j);
  });
#pragma unroll
  for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
    // In the order of RotaryHead: there a lane adds the pairs 32 apart, then meets those that are
    // 16, 8, 4, 2 and 1 lanes away.
    float squares[2][2][2] = {};  // of its lanes l: by l / 16, l / 8 % 2, l % 2
    ForHalves<kDim>([&](int32_t low, int32_t j, int32_t high) {
      const float2 a = Unpacked<T>(query[tile][low][j]);
      const float2 b = Unpacked<T>(query[tile][high][j]);
      squares[low % 2][j][0] = AddSquares(squares[low % 2][j][0], a.x, b.x);
      squares[low % 2][j][1] = AddSquares(squares[low % 2][j][1], a.y, b.y);
    });
    float sum[2];
#pragma unroll
    for (int32_t b = 0; b < 2; ++b) {
      sum[b] = (squares[0][0][b] + squares[1][0][b]) + (squares[0][1][b] + squares[1][1][b]);
      sum[b] += __shfl_xor_sync(kAllLanes, sum[b], 2);
      sum[b] += __shfl_xor_sync(kAllLanes, sum[b], 1);
    }
    const float inverse = InverseRms(sum[0] + sum[1], kDim, eps);
#pragma unroll
    for (int32_t i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int32_t j = 0; j < 2; ++j) {
        const float2 v = Unpacked<T>(query[tile][i][j]);
        query[tile][i][j] = PackPair<T>(Normalized<T>(v.x, inverse, weights[i][j].x),
                                        Normalized<T>(v.y, inverse, weights[i][j].y));
      }
    }
  }
}

// Turns a token's queries, as the product left them, into what RotaryKvWrite makes of them.
template <typename T, int kDim, int kHeadTiles>
__device__ void RotateQueries(uint32_t (&query)[kHeadTiles][kDim / 16][2],
                              const FusedRotaryArgs& rotary, int32_t token) {
  const float* table = rotary.cos_sin + static_cast<int64_t>(token) * kDim;
  // Read before the norm, so that all that comes from memory is waited for once.
  float2 cosine[kDim / 32][2];
  float2 sine[kDim / 32][2];
  ForHalves<kDim>([&](int32_t low, int32_t j, int32_t) {
    cosine[low][j] = LoadColumns(table, low, j);
    sine[low][j] = LoadColumns(table + kDim / 2, low, j);
  });
  if (rotary.q_norm_weight != nullptr) {
    NormalizeQueries<T, kDim, kHeadTiles>(query, rotary.q_norm_weight, rotary.norm_eps);
  }
#pragma unroll
  for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
    ForHalves<kDim>([&](int32_t low, int32_t j, int32_t high) {
      const float2 a = Unpacked<T>(query[tile][low][j]);
      const float2 b = Unpacked<T>(query[tile][high][j]);
      const float2 c = cosine[low][j];
      const float2 s = sine[low][j];
      query[tile][low][j] =
          PackPair<T>(RotatedLow(a.x, b.x, c.x, s.x), RotatedLow(a.y, b.y, c.y, s.y));
      query[tile][high][j] =
          PackPair<T>(RotatedHigh(a.x, b.x, c.x, s.x), RotatedHigh(a.y, b.y, c.y, s.y));
    });
  }
}

// Key and value of a sequence's token for one kv head.
template <typename T, int kDim>
struct alignas(16) NewestPosition {
  T rows[2][kDim];
};

// One warp makes it, into shared memory, and into the cache if `store`: where a group takes several
// passes, each makes its own, and one of them stores it.
template <typename T, int kDim>
__device__ void MakeNewest(const PagedAttentionArgs& args, const SequenceSpan& span,
                           int32_t kv_head, bool store, NewestPosition<T, kDim>& newest) {
  constexpr int32_t kHalf = kDim / 2;
  constexpr int32_t kPairs = (kHalf + 31) / 32;
  const KvCacheView& kv = args.kv;
  const int64_t token = span.first_token;
  const int64_t num_heads = args.num_q_heads + 2 * kv.num_kv_heads;
  const T* raw_key =
      static_cast<const T*>(args.qkv) + (token * num_heads + args.num_q_heads + kv_head) * kDim;
  RotaryHead<T, kPairs> key;
  RotaryHead<T, kPairs> value;
  RotaryAngles<kPairs> angles;
  key.Load(raw_key, kHalf);
  value.Load(raw_key + static_cast<int64_t>(kv.num_kv_heads) * kDim, kHalf);
  angles.Load(args.rotary.cos_sin + token * kDim, kHalf);
  const int64_t block = kv.block_tables[static_cast<int64_t>(span.slot) * kv.max_blocks +
                                        span.context_len / kv.block_tokens];
  if (args.rotary.k_norm_weight != nullptr) {
    key.Normalize(args.rotary.k_norm_weight, kHalf, args.rotary.norm_eps);
  }
  key.Rotate(angles, kHalf);
  key.Store(newest.rows[0], kHalf);
  value.Store(newest.rows[1], kHalf);
  __syncwarp();
  if (!store) return;
  char* plane = static_cast<char*>(kv.arena) + block * kv.block_bytes;
  const int64_t row =
      (static_cast<int64_t>(kv_head) * kv.block_tokens + span.context_len % kv.block_tokens) * kDim;
  key.Store(reinterpret_cast<T*>(plane + kv.layer_offset) + row, kHalf);
  value.Store(reinterpret_cast<T*>(plane + kv.value_offset) + row, kHalf);
}

// Lays it over its place in a chunk that has landed: `row` of the tiles at `stage`. The warp that
// made it calls this.
template <typename T, int kDim>
__device__ void PlaceNewest(const NewestPosition<T, kDim>& newest, char* stage, int32_t row) {
  constexpr int32_t kVectors = kDim * static_cast<int32_t>(sizeof(T)) / 16;
  for (int32_t i = threadIdx.x % 32; i < 2 * kVectors; i += 32) {
    const int32_t plane = i / kVectors;
    const int32_t vector = i % kVectors;
    char* to = stage + plane * Shape<kDim>::kTileBytes + row * Shape<kDim>::kRowBytes + vector * 16;
    *reinterpret_cast<uint4*>(to) = reinterpret_cast<const uint4*>(newest.rows[plane])[vector];
  }
  __syncwarp();
}

}  // namespace fathom::kernels::cuda::decode
