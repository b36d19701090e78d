// The angles of a step, and what they are for: normalised, rotated queries and keys, the keys and
// values written to the cache.

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rotary_head.cuh"
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

// One warp a head of a token.
template <typename T>
__global__ void RotaryKvWriteKernel(RotaryKvWriteArgs args) {
  const KvCacheView& kv = args.kv;
  const int dim = kv.head_dim;
  const int half = dim / 2;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const auto token = static_cast<int>(blockIdx.x);
  const int num_heads = args.num_q_heads + 2 * kv.num_kv_heads;
  LetSuccessorStart();
  WaitForPredecessor();
  if (head >= num_heads) return;
  T* data = static_cast<T*>(args.qkv) + (int64_t{token} * num_heads + head) * dim;
  const bool is_query = head < args.num_q_heads;
  const bool is_value = head >= args.num_q_heads + kv.num_kv_heads;

  RotaryHead<T, kPairsMax> values;
  values.Load(data, half);
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
  if (!is_value) {
    RotaryAngles<kPairsMax> angles;
    angles.Load(args.cos_sin + int64_t{token} * dim, half);
    const float* weight = is_query ? args.q_norm_weight : args.k_norm_weight;
    if (weight != nullptr) values.Normalize(weight, half, args.norm_eps);
    values.Rotate(angles, half);
  }
  values.Store(out, half);
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
