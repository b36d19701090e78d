// Decode: one query a sequence, so every key and value is read once and the memory's rate is the
// limit. The heads of a group share each read. A warp owns a ring of chunks in shared memory that
// cp.async keeps filling, across the borders of rows; so about 128 KB are on their way to a
// multiprocessor at any time.

#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_decode_rotary.cuh"
#include "kernels/cuda/attention_kernels.h"

namespace fathom::kernels::cuda {
namespace decode {
namespace {

__device__ inline float4 Scaled(float4 v, float factor) {
  return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

__device__ inline float4 Sum(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Where this worker's result of a row goes: to the output if it has all of it.
template <typename T>
struct Destination {
  T* out;  // [heads, head_dim]
  int32_t heads;
  bool whole;
  float* partial;             // [kMaxHeadsPerPass, head_dim]
  float* partial_statistics;  // [kMaxHeadsPerPass, 2]
};

// Adds up the warps of the block. Ends with the block synchronised.
template <typename T, int kDim, int kHeadTiles>
__device__ void MergeWarps(WarpState<T, kDim, kHeadTiles>& state, float* sums,
                           const Destination<T>& to) {
  constexpr int32_t kSumRow = Shape<kDim>::kSumRow;
  __shared__ float maxima[kWarps][kMaxHeadsPerPass];
  __shared__ float weights[kWarps][kMaxHeadsPerPass];
  const int32_t lane = threadIdx.x % 32;
  const int32_t warp = threadIdx.x / 32;
  state.End();
  if (lane < 4) {
    for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
      for (int32_t j = 0; j < 2; ++j) {
        maxima[warp][tile * 8 + lane * 2 + j] = state.maximum[tile][j];
        weights[warp][tile * 8 + lane * 2 + j] = state.sum[tile][j];
      }
    }
  }
  __syncthreads();
  const auto highest = [&](int32_t head) {
    float result = maxima[0][head];
    for (int32_t i = 1; i < kWarps; ++i) result = fmaxf(result, maxima[i][head]);
    return result;
  };
  float* pair = sums + warp / 2 * 8 * kSumRow;
#pragma unroll
  for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
    float factor[2];
    for (int32_t j = 0; j < 2; ++j) {
      factor[j] =
          FastExp2(state.maximum[tile][j] - Subtrahend(highest(tile * 8 + lane % 4 * 2 + j)));
    }
    for (int32_t turn = 1; turn >= 0; --turn) {
      if (warp % 2 == turn) {
#pragma unroll
        for (int32_t i = 0; i < kDim / 16; ++i) {
          for (int32_t j = 0; j < 4; ++j) {
            float* at = pair + (lane % 4 * 2 + j % 2) * kSumRow + i * 16 + lane / 4 + j / 2 * 8;
            const float v = state.output[tile][i][j] * factor[j % 2];
            *at = turn == 1 ? v : *at + v;
          }
        }
      }
      __syncthreads();
    }
    for (int32_t i = threadIdx.x; i < 8 * kDim / 4; i += kThreads) {
      const int32_t row = i / (kDim / 4);
      const int32_t column = i % (kDim / 4) * 4;
      const int32_t head = tile * 8 + row;
      if (head >= to.heads) break;
      const float* at = sums + row * kSumRow + column;
      const float4 v = Sum(*reinterpret_cast<const float4*>(at),
                           *reinterpret_cast<const float4*>(at + 8 * kSumRow));
      const float maximum = highest(head);
      float sum = 0;
      for (int32_t w = 0; w < kWarps; ++w) {
        sum += weights[w][head] * FastExp2(maxima[w][head] - Subtrahend(maximum));
      }
      if (to.whole) {
        Store4(to.out + static_cast<int64_t>(head) * kDim + column, Scaled(v, 1.0F / sum));
      } else {
        Store4(to.partial + head * kDim + column, v);
        if (column == 0) {
          to.partial_statistics[head * 2] = maximum;
          to.partial_statistics[head * 2 + 1] = sum;
        }
      }
    }
    __syncthreads();
  }
}

// Adds up what the workers [first, last] left of a row; the first began it.
template <typename T, int kDim>
__device__ void CombineWorkers(const DecodeWorkspace& workspace, int32_t first, int32_t last,
                               const Destination<T>& to) {
  // Enough to cover the latency of a read with others.
  constexpr int32_t kAtOnce = 8;
  for (int32_t i = threadIdx.x; i < to.heads * kDim / 4; i += kThreads) {
    const int32_t head = i / (kDim / 4);
    const int32_t column = i % (kDim / 4) * 4;
    float maximum = -INFINITY;
    float sum = 0;
    float4 output = make_float4(0, 0, 0, 0);
    for (int32_t begin = first; begin <= last; begin += kAtOnce) {
      float2 statistics[kAtOnce];
      float4 part[kAtOnce];
#pragma unroll
      for (int32_t j = 0; j < kAtOnce; ++j) {
        const int32_t worker = begin + j;
        statistics[j] = make_float2(-INFINITY, 0);
        part[j] = make_float4(0, 0, 0, 0);
        if (worker > last) continue;
        const int64_t at = (worker * 2 + (worker == first)) * kMaxHeadsPerPass + head;
        statistics[j] = __ldcg(reinterpret_cast<const float2*>(workspace.statistics + at * 2));
        part[j] = __ldcg(reinterpret_cast<const float4*>(workspace.outputs + at * kDim + column));
      }
      float highest = maximum;
      for (int32_t j = 0; j < kAtOnce; ++j) highest = fmaxf(highest, statistics[j].x);
      const float subtrahend = Subtrahend(highest);
      const float rescale = FastExp2(maximum - subtrahend);
      maximum = highest;
      sum *= rescale;
      output = Scaled(output, rescale);
      for (int32_t j = 0; j < kAtOnce; ++j) {
        const float factor = FastExp2(statistics[j].x - subtrahend);
        sum += factor * statistics[j].y;
        output = Sum(output, Scaled(part[j], factor));
      }
    }
    Store4(to.out + static_cast<int64_t>(head) * kDim + column, Scaled(output, 1.0F / sum));
  }
}

// `settled` belongs to kFused: a step's own operations then have no part in the first chunks, which
// are on their way before the product that makes the queries has ended.
template <typename T, int kDim, int kHeadTiles, bool kFused>
__global__ void __launch_bounds__(kThreads, DecodeBlocksPerMultiprocessor(kDim))
    DecodeKernel(const __grid_constant__ PagedAttentionArgs args, float scale_log2,
                 const __grid_constant__ DecodeWorkspace workspace, bool settled) {
  constexpr int32_t kStages = Shape<kDim>::kStages;
  constexpr int32_t kStageBytes = Shape<kDim>::kStageBytes;
  constexpr int32_t kHeadsPerPass = kHeadTiles * 8;
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  const int32_t passes = (group + kHeadsPerPass - 1) / kHeadsPerPass;
  const int32_t head_groups = args.kv.num_kv_heads * passes;
  const auto worker = static_cast<int32_t>(blockIdx.x);
  const int32_t warp = threadIdx.x / 32;

  LetSuccessorStart();
  if (!kFused || !settled) WaitForPredecessor();
  DecodePartition partition(0, 0);
  int64_t first_chunk = 0;
  SequencePieces found;
  const bool has_work = FindSequence<kThreads>(
      args.sequences, args.num_sequences,
      [&](const SequenceSpan& span) { return DecodeChunks(span, args.window); },
      [&](int32_t total) {
        partition = DecodePartition(static_cast<int64_t>(total) * head_groups,
                                    static_cast<int32_t>(gridDim.x));
        if (worker >= partition.workers) return -1;
        first_chunk = partition.Begin(worker);
        return static_cast<int32_t>(first_chunk / head_groups);
      },
      found);
  if (!has_work) {
    // Whoever waits for this launch counts on those before it having ended too.
    if (kFused) WaitForPredecessor();
    return;
  }
  const auto num_chunks = static_cast<int32_t>(partition.Begin(worker + 1) - first_chunk);

  Row row;
  row.sequence = found.sequence;
  row.span = args.sequences[row.sequence];
  row.keys = VisibleKeys(row.span.context_len, args.window);
  const int32_t row_chunks = DecodeChunks(row.span, args.window);
  const int64_t into = first_chunk - static_cast<int64_t>(found.before) * head_groups;
  row.head_group = static_cast<int32_t>(into / row_chunks);
  row.begin = -static_cast<int32_t>(into % row_chunks);
  row.end = row.begin + row_chunks;

  char* ring = DynamicShared() + warp * kStages * kStageBytes;
  auto* sums = reinterpret_cast<float*>(DynamicShared() + kWarps * kStages * kStageBytes);
  ChunkLoader<kDim, !kFused> loader(args, row, head_groups, passes, warp, num_chunks);
  for (int32_t i = 0; i < kStages - 1; ++i) {
    loader.Load(SharedAddress(ring) + i * kStageBytes);
    CopyAsyncCommit();
  }
  if (kFused) WaitForPredecessor();
  WarpState<T, kDim, kHeadTiles> state;
  int32_t stage = 0;
  for (int32_t chunk = warp;; NextRow(args, head_groups, row)) {
    const int32_t first_head =
        row.head_group / passes * group + row.head_group % passes * kHeadsPerPass;
    Destination<T> to;
    to.heads = min(kHeadsPerPass, group - row.head_group % passes * kHeadsPerPass);
    const int64_t qkv_heads = args.num_q_heads + 2 * args.kv.num_kv_heads;
    state.Begin(
        static_cast<const T*>(args.qkv) + (row.span.first_token * qkv_heads + first_head) * kDim,
        to.heads);
    [[maybe_unused]] __shared__ NewestPosition<T, kDim> newest;
    if constexpr (kFused) {
      if (row.end <= num_chunks && (row.end - 1) % kWarps == warp) {
        MakeNewest<T, kDim>(args, row.span, row.head_group / passes, row.head_group % passes == 0,
                            newest);
      }
      RotateQueries<T, kDim, kHeadTiles>(state.query, args.rotary, row.span.first_token);
    }
    for (; chunk < min(row.end, num_chunks); chunk += kWarps) {
      CopyAsyncWait<kStages - 2>();
      __syncwarp();
      loader.Load(SharedAddress(ring) + (stage + kStages - 1) % kStages * kStageBytes);
      CopyAsyncCommit();
      if constexpr (kFused) {
        if (chunk + 1 == row.end) {
          PlaceNewest(newest, ring + stage * kStageBytes, row.keys.last % kChunkTokens);
        }
      }
      state.Add(SharedAddress(ring) + stage * kStageBytes, row.Position(chunk), row.keys,
                scale_log2);
      stage = (stage + 1) % kStages;
    }
    to.out = static_cast<T*>(args.out) +
             (static_cast<int64_t>(row.span.first_token) * args.num_q_heads + first_head) * kDim;
    to.whole = row.begin >= 0 && row.end <= num_chunks;
    const int64_t part = static_cast<int64_t>(worker * 2 + (row.begin >= 0)) * kMaxHeadsPerPass;
    to.partial = workspace.outputs + part * kDim;
    to.partial_statistics = workspace.statistics + part * 2;
    MergeWarps(state, sums, to);
    if (!to.whole) {
      __shared__ bool last_to_arrive;
      const int32_t first_worker = partition.Owner(first_chunk + row.begin);
      const int32_t last_worker = partition.Owner(first_chunk + row.end - 1);
      __syncthreads();
      if (threadIdx.x == 0) {
        const int32_t arrived = CountArrival(workspace.arrivals + first_worker);
        last_to_arrive = arrived == last_worker - first_worker;
        if (last_to_arrive) workspace.arrivals[first_worker] = 0;
      }
      __syncthreads();
      if (last_to_arrive) CombineWorkers<T, kDim>(workspace, first_worker, last_worker, to);
    }
    if (row.end >= num_chunks) break;
  }
}

template <typename T, int kDim, int kHeadTiles, bool kFused>
struct Instance {
  static constexpr auto kKernel = DecodeKernel<T, kDim, kHeadTiles, kFused>;
  static constexpr int32_t kSharedBytes = Shape<kDim>::kSharedBytes;
};

template <typename T, int kDim, bool kFused, typename Use>
cudaError_t WithHeadTiles(int32_t group, const Use& use) {
  // Two tiles of heads this wide do not fit into the registers; large groups take two passes.
  if constexpr (kDim <= 128) {
    if (group > 8) return use(Instance<T, kDim, 2, kFused>());
  }
  return use(Instance<T, kDim, 1, kFused>());
}

template <typename T, bool kFused, typename Use>
cudaError_t WithHeadDim(int32_t head_dim, int32_t group, const Use& use) {
  switch (head_dim) {
    case 64:
      return WithHeadTiles<T, 64, kFused>(group, use);
    case 96:
      return WithHeadTiles<T, 96, kFused>(group, use);
    case 128:
      return WithHeadTiles<T, 128, kFused>(group, use);
    case 256:
      return WithHeadTiles<T, 256, kFused>(group, use);
    default:
      return cudaErrorInvalidValue;
  }
}

// Calls `use` with the kernel for a type, a head_dim and a group.
template <bool kFused, typename Use>
cudaError_t WithInstance(DType dtype, int32_t head_dim, int32_t group, const Use& use) {
  if (dtype == DType::kBF16) return WithHeadDim<__nv_bfloat16, kFused>(head_dim, group, use);
  return WithHeadDim<__half, kFused>(head_dim, group, use);
}

}  // namespace
}  // namespace decode

cudaError_t PrepareDecodeAttention() {
  const auto prepare = [](auto instance) {
    return AllowShared(instance.kKernel, instance.kSharedBytes);
  };
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int32_t head_dim : kTensorHeadDims) {
      for (const int32_t group : {8, kMaxHeadsPerPass}) {
        cudaError_t error = decode::WithInstance<false>(dtype, head_dim, group, prepare);
        if (error == cudaSuccess) {
          error = decode::WithInstance<true>(dtype, head_dim, group, prepare);
        }
        if (error != cudaSuccess) return error;
      }
    }
  }
  return cudaSuccess;
}

cudaError_t LaunchDecodeAttention(const PagedAttentionArgs& args, const DecodeWorkspace& workspace,
                                  int32_t num_workers, bool settled, cudaStream_t stream) {
  const int32_t head_dim = args.kv.head_dim;
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  const auto launch = [&](auto instance) {
    return LaunchChained(instance.kKernel, dim3(num_workers), decode::kThreads,
                         instance.kSharedBytes, stream, args, args.scale * kLog2E, workspace,
                         settled);
  };
  if (args.rotary.cos_sin != nullptr) {
    return decode::WithInstance<true>(args.dtype, head_dim, group, launch);
  }
  return decode::WithInstance<false>(args.dtype, head_dim, group, launch);
}

}  // namespace fathom::kernels::cuda
