// Attention for every type and shape: a block for each token and head, a warp for every fourth key.
// Correct and simple; also what F32 models run on.

#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/attention_kernels.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kWarps = 4;
constexpr int32_t kThreads = kWarps * 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFU;
constexpr int32_t kDimsPerLane = kMaxAttentionHeadDim / 32;

__device__ inline float Widened(float v) { return v; }
__device__ inline float Widened(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float Widened(__half v) { return __half2float(v); }

__device__ inline void StoreNarrowed(float* out, float v) { *out = v; }
__device__ inline void StoreNarrowed(__nv_bfloat16* out, float v) { *out = __float2bfloat16_rn(v); }
__device__ inline void StoreNarrowed(__half* out, float v) { *out = __float2half_rn(v); }

template <typename T>
struct KeyAndValue {
  const T* key;
  const T* value;
};

template <typename T>
__device__ KeyAndValue<T> CacheRow(const KvCacheView& kv, int32_t slot, int32_t position,
                                   int32_t head) {
  const int64_t entry = static_cast<int64_t>(slot) * kv.max_blocks + position / kv.block_tokens;
  const char* block = static_cast<const char*>(kv.arena) + kv.block_tables[entry] * kv.block_bytes;
  const int64_t row =
      (static_cast<int64_t>(head) * kv.block_tokens + position % kv.block_tokens) * kv.head_dim;
  return {reinterpret_cast<const T*>(block + kv.layer_offset) + row,
          reinterpret_cast<const T*>(block + kv.value_offset) + row};
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    PlainKernel(const __grid_constant__ PagedAttentionArgs args) {
  // Aligned, or a vector read of it takes a neighbour's element along, which racecheck reports.
  __shared__ __align__(16) SequenceSpan span;
  __shared__ bool found;
  __shared__ float maxima[kWarps];
  __shared__ float sums[kWarps];
  __shared__ float outputs[kWarps][kMaxAttentionHeadDim];
  const auto token = static_cast<int32_t>(blockIdx.x);
  const auto head = static_cast<int32_t>(blockIdx.y);
  const int32_t dim = args.kv.head_dim;
  const int32_t lane = threadIdx.x % 32;
  const int32_t warp = threadIdx.x / 32;

  LetSuccessorStart();
  WaitForPredecessor();
  if (threadIdx.x == 0) found = false;
  __syncthreads();
  for (int32_t i = threadIdx.x; i < args.num_sequences; i += kThreads) {
    const SequenceSpan& candidate = args.sequences[i];
    const int32_t query = token - candidate.first_token;
    if (query >= 0 && query < candidate.query_len) {
      span = candidate;
      found = true;
    }
  }
  __syncthreads();
  if (!found) return;

  const int32_t heads = args.num_q_heads + 2 * args.kv.num_kv_heads;
  const T* queries =
      static_cast<const T*>(args.qkv) + (static_cast<int64_t>(token) * heads + head) * dim;
  float query[kDimsPerLane];
  float output[kDimsPerLane];
  for (int32_t i = 0; i < kDimsPerLane; ++i) {
    const int32_t at = i * 32 + lane;
    query[i] = at < dim ? Widened(queries[at]) : 0.0F;
    output[i] = 0;
  }
  const KeyRange keys = VisibleKeys(span.context_len + token - span.first_token, args.window);
  const int32_t kv_head = head / (args.num_q_heads / args.kv.num_kv_heads);
  float maximum = -INFINITY;
  float sum = 0;
  for (int32_t position = keys.first + warp; position <= keys.last; position += kWarps) {
    const KeyAndValue<T> row = CacheRow<T>(args.kv, span.slot, position, kv_head);
    float value[kDimsPerLane];
    float score = 0;
    for (int32_t i = 0; i < kDimsPerLane; ++i) {
      const int32_t at = i * 32 + lane;
      value[i] = 0;
      if (at >= dim) continue;
      score += query[i] * Widened(row.key[at]);
      value[i] = Widened(row.value[at]);
    }
    for (int32_t distance = 16; distance > 0; distance /= 2) {
      score += __shfl_xor_sync(kAllLanes, score, distance);
    }
    score *= args.scale;
    const float highest = fmaxf(maximum, score);
    const float subtrahend = Subtrahend(highest);
    const float rescale = expf(maximum - subtrahend);
    const float weight = expf(score - subtrahend);
    maximum = highest;
    sum = sum * rescale + weight;
    for (int32_t i = 0; i < kDimsPerLane; ++i) output[i] = output[i] * rescale + weight * value[i];
  }

  if (lane == 0) {
    maxima[warp] = maximum;
    sums[warp] = sum;
  }
  for (int32_t i = 0; i < kDimsPerLane; ++i) outputs[warp][i * 32 + lane] = output[i];
  __syncthreads();
  float highest = -INFINITY;
  for (int32_t i = 0; i < kWarps; ++i) highest = fmaxf(highest, maxima[i]);
  float factors[kWarps];
  float total = 0;
  for (int32_t i = 0; i < kWarps; ++i) {
    factors[i] = expf(maxima[i] - Subtrahend(highest));
    total += factors[i] * sums[i];
  }
  T* out =
      static_cast<T*>(args.out) + (static_cast<int64_t>(token) * args.num_q_heads + head) * dim;
  for (int32_t at = threadIdx.x; at < dim; at += kThreads) {
    float v = 0;
    for (int32_t i = 0; i < kWarps; ++i) v += factors[i] * outputs[i][at];
    StoreNarrowed(out + at, v / total);
  }
}

}  // namespace

cudaError_t LaunchPlainAttention(const PagedAttentionArgs& args, cudaStream_t stream) {
  const dim3 grid(args.num_tokens, args.num_q_heads);
  switch (args.dtype) {
    case DType::kF32:
      return LaunchChained(PlainKernel<float>, grid, kThreads, 0, stream, args);
    case DType::kBF16:
      return LaunchChained(PlainKernel<__nv_bfloat16>, grid, kThreads, 0, stream, args);
    case DType::kF16:
      return LaunchChained(PlainKernel<__half>, grid, kThreads, 0, stream, args);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fathom::kernels::cuda
