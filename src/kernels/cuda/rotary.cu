// The angles of a step, and what they are for: normalised, rotated queries and keys, the keys and
// values written to the cache.

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Pairs of a head that one lane holds: heads of at most 256.
constexpr int kPairsMax = 4;

__global__ void RotaryTableKernel(RotaryTableArgs args) {
  LetSuccessorStart();
  WaitForPredecessor();
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= int64_t{args.num_tokens} * args.half_dim) return;
  const auto token = static_cast<int>(at / args.half_dim);
  const auto i = static_cast<int>(at % args.half_dim);
  float sine;
  float cosine;
  sincosf(static_cast<float>(args.positions[token]) * args.inv_freq[i], &sine, &cosine);
  float* out = args.cos_sin + int64_t{token} * 2 * args.half_dim;
  out[i] = args.scale * cosine;
  out[args.half_dim + i] = args.scale * sine;
}

// One warp a head of a token; lane l holds the pairs (i, i + half), i = l, l + 32, ...
template <typename T>
__global__ void RotaryKvWriteKernel(RotaryKvWriteArgs args) {
  const KvCacheView& kv = args.kv;
  const int dim = kv.head_dim;
  const int half = dim / 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const auto token = static_cast<int>(blockIdx.x);
  const int num_heads = args.num_q_heads + 2 * kv.num_kv_heads;
  LetSuccessorStart();
  WaitForPredecessor();
  if (head >= num_heads) return;
  T* data = static_cast<T*>(args.qkv) + (int64_t{token} * num_heads + head) * dim;
  const bool is_query = head < args.num_q_heads;
  const bool is_value = head >= args.num_q_heads + kv.num_kv_heads;

  float low[kPairsMax];
  float high[kPairsMax];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kPairsMax; ++k) {
    const int i = lane + 32 * k;
    if (i >= half) break;
    low[k] = ToFloat(data[i]);
    high[k] = ToFloat(data[half + i]);
    sum += low[k] * low[k] + high[k] * high[k];
  }
  const float* weight = is_query ? args.q_norm_weight : args.k_norm_weight;
  if (weight != nullptr && !is_value) {
    const float inverse = 1.0F / sqrtf(WarpSum(sum) / static_cast<float>(dim) + args.norm_eps);
#pragma unroll
    for (int k = 0; k < kPairsMax; ++k) {
      const int i = lane + 32 * k;
      if (i >= half) break;
      low[k] = Rounded<T>(weight[i] * Rounded<T>(low[k] * inverse));
      high[k] = Rounded<T>(weight[half + i] * Rounded<T>(high[k] * inverse));
    }
  }
  T* out = data;
  if (!is_query) {
    const int position = args.kv_positions[token];
    if (position < 0) return;
    const int kv_head = (head - args.num_q_heads) % kv.num_kv_heads;
    const int block = kv.block_tables[int64_t{args.token_slots[token]} * kv.max_blocks +
                                      position / kv.block_tokens];
    char* base = static_cast<char*>(kv.arena) + int64_t{block} * kv.block_bytes +
                 (is_value ? kv.value_offset : kv.layer_offset);
    out = reinterpret_cast<T*>(base) +
          (int64_t{kv_head} * kv.block_tokens + position % kv.block_tokens) * dim;
  }
  const float* cos_sin = args.cos_sin + int64_t{token} * dim;
#pragma unroll
  for (int k = 0; k < kPairsMax; ++k) {
    const int i = lane + 32 * k;
    if (i >= half) break;
    const float cosine = is_value ? 1.0F : cos_sin[i];
    const float sine = is_value ? 0.0F : cos_sin[half + i];
    out[i] = FromFloat<T>(is_value ? low[k] : low[k] * cosine - high[k] * sine);
    out[half + i] = FromFloat<T>(is_value ? high[k] : high[k] * cosine + low[k] * sine);
  }
}

}  // namespace

cudaError_t LaunchRotaryTable(const RotaryTableArgs& args, cudaStream_t stream) {
  const unsigned blocks = CeilDiv(int64_t{args.num_tokens} * args.half_dim, kThreads);
  return LaunchChained(RotaryTableKernel, blocks, kThreads, 0, stream, args);
}

cudaError_t LaunchRotaryKvWrite(const RotaryKvWriteArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.num_tokens),
                  CeilDiv(args.num_q_heads + 2 * args.kv.num_kv_heads, kWarps));
  return WithType(args.dtype, [&](auto t) {
    return LaunchChained(RotaryKvWriteKernel<decltype(t)>, grid, kThreads, 0, stream, args);
  });
}

}  // namespace fathom::kernels::cuda
