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

// Where this worker's result of a row goes. The worker that begins a row puts it together from what
// the others, up to `last`, leave in their parts, and these go to nobody but it. A row's beginning
// is the last that a worker has, all others' parts of it come before anything they may wait for.
template <typename T>
struct Destination {
  T* out;  // [heads, head_dim]
  int32_t heads;
  int32_t worker;
  int32_t last;
  bool begins;
  const DecodeWorkspace& workspace;
};

// A part that is not there yet. No sum is this NaN: arithmetic gives the canonical one.
constexpr uint32_t kAbsent = 0xFFFFFFFFU;
constexpr uint32_t kCanonicalNan = 0x7FFFFFFFU;

__device__ inline bool IsThere(float v) { return __float_as_uint(v) != kAbsent; }
__device__ inline bool IsThere(float2 v) { return IsThere(v.x) && IsThere(v.y); }
__device__ inline bool IsThere(float4 v) {
  return IsThere(v.x) && IsThere(v.y) && IsThere(v.z) && IsThere(v.w);
}

// Each word by itself is there or not, so nothing else needs an order.
__device__ inline float4 LoadPart4(const float* from) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
__device__ inline float2 LoadPart2(const float* from) {
  float2 v;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
               : "=f"(v.x), "=f"(v.y)
               : "l"(from)
               : "memory");
  return v;
}
__device__ inline void StorePart4(float* to, float4 v) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y),
               "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ inline void StorePart2(float* to, float2 v) {
  asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(v.x), "f"(v.y)
               : "memory");
}

__device__ inline float Present(float v) { return IsThere(v) ? v : __uint_as_float(kCanonicalNan); }

// A row's sums, or a part of them.
struct RowSums {
  float maximum;
  float sum;
  float4 output;
};

// Adds up what the workers (to.worker, to.last] have of 4 columns of a head, and takes their
// outputs away; their statistics other threads still read.
template <typename T, int kDim>
__device__ void AddOthers(const Destination<T>& to, int32_t head, int32_t column, RowSums& row) {
  // Enough to cover the latency of a read with others.
  constexpr int32_t kAtOnce = 8;
  const float absent = __uint_as_float(kAbsent);
  for (int32_t begin = to.worker + 1; begin <= to.last; begin += kAtOnce) {
    float2 statistics[kAtOnce];
    float4 part[kAtOnce];
    bool there;
    do {
      there = true;
#pragma unroll
      for (int32_t j = 0; j < kAtOnce; ++j) {
        statistics[j] = make_float2(-INFINITY, 0);
        part[j] = make_float4(0, 0, 0, 0);
        if (begin + j > to.last) continue;
        const int64_t at = (begin + j) * kMaxHeadsPerPass + head;
        statistics[j] = LoadPart2(to.workspace.statistics + at * 2);
        part[j] = LoadPart4(to.workspace.outputs + at * kDim + column);
      }
#pragma unroll
      for (int32_t j = 0; j < kAtOnce; ++j) there &= IsThere(statistics[j]) && IsThere(part[j]);
    } while (!there);
    float highest = row.maximum;
    for (int32_t j = 0; j < kAtOnce; ++j) highest = fmaxf(highest, statistics[j].x);
    const float subtrahend = Subtrahend(highest);
    const float rescale = FastExp2(row.maximum - subtrahend);
    row.maximum = highest;
    row.sum *= rescale;
    row.output = Scaled(row.output, rescale);
#pragma unroll
    for (int32_t j = 0; j < kAtOnce; ++j) {
      const float factor = FastExp2(statistics[j].x - subtrahend);
      row.sum += factor * statistics[j].y;
      row.output = Sum(row.output, Scaled(part[j], factor));
      if (begin + j > to.last) continue;
      const int64_t at = (begin + j) * kMaxHeadsPerPass + head;
      StorePart4(to.workspace.outputs + at * kDim + column,
                 make_float4(absent, absent, absent, absent));
    }
  }
}

// Leaves the statistics of the same workers for the next launch, after a barrier of the block.
template <typename T>
__device__ void TakeStatisticsAway(const Destination<T>& to) {
  const float absent = __uint_as_float(kAbsent);
  const int32_t others = to.last - to.worker;
  for (int32_t i = threadIdx.x; i < others * to.heads; i += kThreads) {
    const int64_t at = (to.worker + 1 + i / to.heads) * kMaxHeadsPerPass + i % to.heads;
    StorePart2(to.workspace.statistics + at * 2, make_float2(absent, absent));
  }
}

// Adds up the warps of the block, and of a row that it begins the other workers. Ends with the
// block synchronised.
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
      RowSums row_sums;
      row_sums.output = Sum(*reinterpret_cast<const float4*>(at),
                            *reinterpret_cast<const float4*>(at + 8 * kSumRow));
      row_sums.maximum = highest(head);
      row_sums.sum = 0;
      for (int32_t w = 0; w < kWarps; ++w) {
        row_sums.sum += weights[w][head] * FastExp2(maxima[w][head] - Subtrahend(row_sums.maximum));
      }
      if (to.begins) {
        AddOthers<T, kDim>(to, head, column, row_sums);
        Store4(to.out + static_cast<int64_t>(head) * kDim + column,
               Scaled(row_sums.output, 1.0F / row_sums.sum));
        continue;
      }
      const float4 v = row_sums.output;
      const int64_t part = static_cast<int64_t>(to.worker) * kMaxHeadsPerPass + head;
      StorePart4(to.workspace.outputs + part * kDim + column,
                 make_float4(Present(v.x), Present(v.y), Present(v.z), Present(v.w)));
      if (column == 0) {
        StorePart2(to.workspace.statistics + part * 2,
                   make_float2(Present(row_sums.maximum), Present(row_sums.sum)));
      }
    }
    __syncthreads();
  }
  if (to.begins) TakeStatisticsAway(to);
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
  int32_t first_chunk = 0;
  SequencePieces found;
  const bool has_work = FindSequence<kThreads>(
      args.sequences, args.num_sequences,
      [&](const SequenceSpan& span) { return DecodeChunks(span, args.window); },
      [&](int32_t total) {
        partition = DecodePartition(total * head_groups, static_cast<int32_t>(gridDim.x));
        if (worker >= partition.workers) return -1;
        first_chunk = partition.Begin(worker);
        return static_cast<int32_t>(static_cast<uint32_t>(first_chunk) /
                                    static_cast<uint32_t>(head_groups));
      },
      found);
  if (!has_work) {
    // Whoever waits for this launch counts on those before it having ended too.
    if (kFused) WaitForPredecessor();
    return;
  }
  const int32_t num_chunks = partition.Begin(worker + 1) - first_chunk;

  Row row;
  row.sequence = found.sequence;
  row.span = args.sequences[row.sequence];
  row.keys = VisibleKeys(row.span.context_len, args.window);
  const int32_t row_chunks = DecodeChunks(row.span, args.window);
  const auto into = static_cast<uint32_t>(first_chunk - found.before * head_groups);
  row.head_group = static_cast<int32_t>(into / static_cast<uint32_t>(row_chunks));
  row.begin = row.head_group * row_chunks - static_cast<int32_t>(into);
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
    const int32_t heads = min(kHeadsPerPass, group - row.head_group % passes * kHeadsPerPass);
    const int64_t qkv_heads = args.num_q_heads + 2 * args.kv.num_kv_heads;
    state.Begin(
        static_cast<const T*>(args.qkv) + (row.span.first_token * qkv_heads + first_head) * kDim,
        heads);
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
    const Destination<T> to = {
        .out = static_cast<T*>(args.out) +
               (static_cast<int64_t>(row.span.first_token) * args.num_q_heads + first_head) * kDim,
        .heads = heads,
        .worker = worker,
        .last = partition.Owner(first_chunk + row.end - 1),
        .begins = row.begin >= 0,
        .workspace = workspace};
    MergeWarps(state, sums, to);
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
