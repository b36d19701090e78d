// Prefill with the tensor core instructions of every GPU since Ampere: any supported head_dim, any
// block size.
//
// A tile is 64 * kRowTiles consecutive rows of a sequence and a kv head, a row being one head of
// the group for one query: short pieces of prompts fill it all the same. Its four warps own 16 *
// kRowTiles rows each and walk over the keys together, one step of kKeys positions at a time, while
// cp.async brings in the next step. Scores and weights never leave the registers.

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_tile.cuh"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kWarps = 4;
constexpr int32_t kThreads = kWarps * 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFU;

template <int kDim>
struct Shape {
  static constexpr int32_t kRowTiles = kDim > 128 ? 1 : 2;  // of 16 rows, for each warp
  static constexpr int32_t kRows = kWarps * 16 * kRowTiles;
  static constexpr int32_t kKeys = kDim > 128 ? 32 : 64;  // a step
  static constexpr int32_t kGroups = kKeys / kBlockTokensStep;
  static constexpr int32_t kTokenBytes = kDim * 2;
  static constexpr int32_t kVectors = kTokenBytes / 16;
  // Tokens that the threads copy at once, one vector each: a power of two, so that some threads of
  // head_dim 96 have nothing to do.
  static constexpr int32_t kPassTokens = kDim == 96 ? 8 : kThreads / kVectors;
  // 16 bytes more than the elements: eight rows then begin on different banks.
  static constexpr int32_t kRowBytes = kTokenBytes + 16;
  static constexpr int32_t kQueryBytes = kRows * kRowBytes;
  static constexpr int32_t kTileBytes = kKeys * kRowBytes;
  static constexpr int32_t kStageBytes = 2 * kTileBytes;
  static constexpr int32_t kSharedBytes = kQueryBytes + 2 * kStageBytes;
};

// Brings keys and values of a step to shared memory.
template <int kDim>
class StepLoader {
  using S = Shape<kDim>;

 public:
  __device__ StepLoader(const PagedAttentionArgs& args, const Tile& tile, int32_t first_step,
                        int64_t (*offsets)[S::kGroups])
      : args_(args), tile_(tile), offsets_(offsets), next_(first_step) {
    LookUp();
    PublishOffsets();
  }

  // Writes where the groups of the next step lie for all threads to see after a barrier, and looks
  // up those of the step behind it, so that nobody waits for the block table.
  __device__ void PublishOffsets() {
    if (threadIdx.x < S::kGroups) offsets_[next_ % 2][threadIdx.x] = offset_;
    ++next_;
    LookUp();
  }

  // REQUIRES: the step's offsets were published before the last barrier.
  __device__ void Load(int32_t step, uint32_t stage) const {
    const int64_t to_value = args_.kv.value_offset - args_.kv.layer_offset;
    const int32_t begin = step * S::kKeys;
    const bool whole = begin >= tile_.keys.first && begin + S::kKeys - 1 <= tile_.keys.last;
    const int32_t thread = threadIdx.x;
    if (thread >= S::kPassTokens * S::kVectors) return;
    const int32_t first_token = thread / S::kVectors;
    const int32_t column = thread % S::kVectors * 16;
#pragma unroll
    for (int32_t i = 0; i < S::kKeys / S::kPassTokens; ++i) {
      // A pass is whole groups or half of one: neither quotient nor rest has a carry.
      constexpr int32_t kStep = kBlockTokensStep;
      const int32_t group = i * S::kPassTokens / kStep + first_token / kStep;
      const int32_t token = i * S::kPassTokens % kStep + first_token % kStep;
      const char* key = static_cast<const char*>(args_.kv.arena) + offsets_[step % 2][group] +
                        token * S::kTokenBytes + column;
      const uint32_t to = stage + (i * S::kPassTokens + first_token) * S::kRowBytes + column;
      if (whole) {
        CopyAsync16(to, key);
        CopyAsync16(to + S::kTileBytes, key + to_value);
      } else {
        const int32_t position = begin + i * S::kPassTokens + first_token;
        const bool visible = position >= tile_.keys.first && position <= tile_.keys.last;
        CopyAsync16OrZero(to, key, visible);
        CopyAsync16OrZero(to + S::kTileBytes, key + to_value, visible);
      }
    }
  }

 private:
  __device__ void LookUp() {
    if (threadIdx.x >= S::kGroups) return;
    const KvCacheView& kv = args_.kv;
    const int32_t position =
        next_ * S::kKeys + static_cast<int32_t>(threadIdx.x) * kBlockTokensStep;
    const int32_t visible = min(max(position, tile_.keys.first), tile_.keys.last);
    const int32_t entry = visible / kv.block_tokens;
    const int64_t block =
        __ldg(kv.block_tables + static_cast<int64_t>(tile_.span.slot) * kv.max_blocks + entry);
    // Outside of the block only where nothing of the group is visible, so that nothing is read.
    int32_t token = position - entry * kv.block_tokens;
    if (token < 0 || token >= kv.block_tokens) token = 0;
    offset_ = block * kv.block_bytes + kv.layer_offset +
              (tile_.kv_head * kv.block_tokens + token) * S::kTokenBytes;
  }

  const PagedAttentionArgs& args_;
  const Tile& tile_;
  int64_t (*offsets_)[S::kGroups];
  int32_t next_;
  int64_t offset_ = 0;
};

// A warp's rows: the highest score so far, the sum of the weights (what this lane has of it) and
// the weighted sum of the values. Index 2 * i + j of the statistics is row lane / 4 + 8 * j of tile
// i.
template <typename T, int kDim>
struct WarpState {
  using S = Shape<kDim>;
  static constexpr int32_t kRowTiles = S::kRowTiles;

  float output[kRowTiles][kDim / 8][4] = {};
  float maximum[2 * kRowTiles];
  float sum[2 * kRowTiles];

  __device__ WarpState() {
    for (int32_t i = 0; i < 2 * kRowTiles; ++i) {
      maximum[i] = -INFINITY;
      sum[i] = 0;
    }
  }

  // `queries` and `keys` are tiles in shared memory; `begin` is the step's first position.
  __device__ void Add(uint32_t queries, uint32_t keys, const Tile& tile, int32_t window,
                      int32_t begin, bool masked, float scale_log2) {
    const int32_t lane = threadIdx.x % 32;
    float score[kRowTiles][S::kKeys / 8][4] = {};
    const uint32_t query_row = queries + (lane % 16) * S::kRowBytes + lane / 16 * 16;
    const uint32_t key_row = keys + (lane % 8 + lane / 16 * 8) * S::kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
    for (int32_t i = 0; i < kDim / 16; ++i) {
      uint32_t query[kRowTiles][4];
#pragma unroll
      for (int32_t m = 0; m < kRowTiles; ++m) {
        LoadMatrices(query[m], query_row + m * 16 * S::kRowBytes + i * 32);
      }
#pragma unroll
      for (int32_t n = 0; n < S::kKeys / 16; ++n) {
        uint32_t key[4];
        LoadMatrices(key, key_row + n * 16 * S::kRowBytes + i * 32);
#pragma unroll
        for (int32_t m = 0; m < kRowTiles; ++m) {
          MultiplyAdd<T>(score[m][2 * n], query[m], key[0], key[1]);
          MultiplyAdd<T>(score[m][2 * n + 1], query[m], key[2], key[3]);
        }
      }
    }
    if (masked) Mask(score, tile, window, begin);
    Soften(score, scale_log2);
    const uint32_t value_row = keys + S::kTileBytes + (lane % 16) * S::kRowBytes + lane / 16 * 16;
#pragma unroll
    for (int32_t k = 0; k < S::kKeys / 16; ++k) {
      uint32_t weight[kRowTiles][4];
#pragma unroll
      for (int32_t m = 0; m < kRowTiles; ++m) {
        for (int32_t j = 0; j < 4; ++j) {
          const float* pair = &score[m][2 * k + j / 2][j % 2 * 2];
          weight[m][j] = PackPair<T>(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int32_t n = 0; n < kDim / 16; ++n) {
        uint32_t value[4];
        LoadMatricesTransposed(value, value_row + k * 16 * S::kRowBytes + n * 32);
#pragma unroll
        for (int32_t m = 0; m < kRowTiles; ++m) {
          MultiplyAdd<T>(output[m][2 * n], weight[m], value[0], value[1]);
          MultiplyAdd<T>(output[m][2 * n + 1], weight[m], value[2], value[3]);
        }
      }
    }
  }

  // Divides by the sums and leaves the rows where the warp's queries were.
  __device__ void End(char* queries) {
    const int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int32_t m = 0; m < kRowTiles; ++m) {
      for (int32_t j = 0; j < 2; ++j) {
        float total = sum[2 * m + j];
        for (int32_t distance = 1; distance < 4; distance *= 2) {
          total += __shfl_xor_sync(kAllLanes, total, distance);
        }
        const float factor = 1.0F / total;
        char* row = queries + (m * 16 + j * 8 + lane / 4) * S::kRowBytes + lane % 4 * 4;
#pragma unroll
        for (int32_t n = 0; n < kDim / 8; ++n) {
          *reinterpret_cast<uint32_t*>(row + n * 16) =
              PackPair<T>(output[m][n][2 * j] * factor, output[m][n][2 * j + 1] * factor);
        }
      }
    }
  }

 private:
  using Scores = float[kRowTiles][S::kKeys / 8][4];

  __device__ void Mask(Scores& score, const Tile& tile, int32_t window, int32_t begin) const {
    const int32_t lane = threadIdx.x % 32;
    const int32_t warp_row = static_cast<int32_t>(threadIdx.x) / 32 * 16 * kRowTiles;
#pragma unroll
    for (int32_t m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int32_t j = 0; j < 2; ++j) {
        const KeyRange seen =
            VisibleKeys(tile.Position(warp_row + m * 16 + j * 8 + lane / 4), window);
#pragma unroll
        for (int32_t n = 0; n < S::kKeys / 8; ++n) {
          for (int32_t i = 0; i < 2; ++i) {
            const int32_t position = begin + n * 8 + lane % 4 * 2 + i;
            if (position < seen.first || position > seen.last) score[m][n][2 * j + i] = -INFINITY;
          }
        }
      }
    }
  }

  // Scores become weights, what is there already is scaled to the new maxima.
  __device__ void Soften(Scores& score, float scale_log2) {
#pragma unroll
    for (int32_t m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int32_t j = 0; j < 2; ++j) {
        float highest = maximum[2 * m + j];
#pragma unroll
        for (int32_t n = 0; n < S::kKeys / 8; ++n) {
          highest = fmaxf(highest, fmaxf(score[m][n][2 * j], score[m][n][2 * j + 1]));
        }
        for (int32_t distance = 1; distance < 4; distance *= 2) {
          highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, distance));
        }
        const float subtrahend = Subtrahend(highest) * scale_log2;
        const float rescale = FastExp2(maximum[2 * m + j] * scale_log2 - subtrahend);
        maximum[2 * m + j] = highest;
        float total = 0;
#pragma unroll
        for (int32_t n = 0; n < S::kKeys / 8; ++n) {
          for (int32_t i = 2 * j; i < 2 * j + 2; ++i) {
            score[m][n][i] = FastExp2(score[m][n][i] * scale_log2 - subtrahend);
            total += score[m][n][i];
          }
        }
        sum[2 * m + j] = sum[2 * m + j] * rescale + total;
#pragma unroll
        for (int32_t n = 0; n < kDim / 8; ++n) {
          output[m][n][2 * j] *= rescale;
          output[m][n][2 * j + 1] *= rescale;
        }
      }
    }
  }
};

// Also commits; rows that are padding become zero.
template <typename T, int kDim>
__device__ void LoadQueries(const PagedAttentionArgs& args, const Tile& tile, uint32_t queries) {
  using S = Shape<kDim>;
  const int32_t heads = args.num_q_heads + 2 * args.kv.num_kv_heads;
  for (int32_t vector = threadIdx.x; vector < S::kRows * kDim / 8; vector += kThreads) {
    const int32_t row = vector / (kDim / 8);
    const int32_t column = vector % (kDim / 8) * 8;
    const bool valid = row < tile.num_rows;
    const T* from =
        static_cast<const T*>(args.qkv) + tile.Offset(valid ? row : 0, heads, kDim) + column;
    CopyAsync16OrZero(queries + (vector + row) * 16, from, valid);
  }
  CopyAsyncCommit();
}

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    PrefillKernel(const __grid_constant__ PagedAttentionArgs args, float scale_log2) {
  using S = Shape<kDim>;
  __shared__ int64_t offsets[2][S::kGroups];
  // Shared, for the registers are full.
  __shared__ Tile tile;
  LetSuccessorStart();
  WaitForPredecessor();
  if (!FindTile<kThreads, S::kRows>(args, tile)) return;
  const KeyRange seen = tile.SeenByAll(args.window);

  const uint32_t queries = SharedAddress(DynamicShared());
  const uint32_t stages = queries + S::kQueryBytes;
  const int32_t warp_rows = static_cast<int32_t>(threadIdx.x) / 32 * 16 * S::kRowTiles;
  const int32_t first_step = tile.keys.first / S::kKeys;
  const int32_t last_step = tile.keys.last / S::kKeys;
  LoadQueries<T, kDim>(args, tile, queries);
  StepLoader<kDim> loader(args, tile, first_step, offsets);
  __syncthreads();
  loader.Load(first_step, stages + first_step % 2 * S::kStageBytes);
  CopyAsyncCommit();
  loader.PublishOffsets();
  WarpState<T, kDim> state;
  for (int32_t step = first_step; step <= last_step; ++step) {
    CopyAsyncWait<0>();
    __syncthreads();
    if (step < last_step) loader.Load(step + 1, stages + (step + 1) % 2 * S::kStageBytes);
    CopyAsyncCommit();
    loader.PublishOffsets();
    const int32_t begin = step * S::kKeys;
    const bool masked = begin < seen.first || begin + S::kKeys - 1 > seen.last;
    state.Add(queries + warp_rows * S::kRowBytes, stages + step % 2 * S::kStageBytes, tile,
              args.window, begin, masked, scale_log2);
  }
  state.End(DynamicShared() + warp_rows * S::kRowBytes);
  __syncwarp();
  const int32_t lane = threadIdx.x % 32;
  for (int32_t vector = lane; vector < 16 * S::kRowTiles * kDim / 8; vector += 32) {
    const int32_t row = warp_rows + vector / (kDim / 8);
    const int32_t column = vector % (kDim / 8) * 8;
    if (row >= tile.num_rows) break;
    T* out = static_cast<T*>(args.out) + tile.Offset(row, args.num_q_heads, kDim) + column;
    *reinterpret_cast<uint4*>(out) =
        *reinterpret_cast<const uint4*>(DynamicShared() + row * S::kRowBytes + column * 2);
  }
}

template <typename T, int kDim>
struct Instance {
  static constexpr auto kKernel = PrefillKernel<T, kDim>;
  using S = Shape<kDim>;
};

template <typename T, typename Use>
cudaError_t WithHeadDim(int32_t head_dim, const Use& use) {
  switch (head_dim) {
    case 64:
      return use(Instance<T, 64>());
    case 96:
      return use(Instance<T, 96>());
    case 128:
      return use(Instance<T, 128>());
    case 256:
      return use(Instance<T, 256>());
    default:
      return cudaErrorInvalidValue;
  }
}

// Calls `use` with the kernel for a type and a head_dim.
template <typename Use>
cudaError_t WithInstance(DType dtype, int32_t head_dim, const Use& use) {
  if (dtype == DType::kBF16) return WithHeadDim<__nv_bfloat16>(head_dim, use);
  return WithHeadDim<__half>(head_dim, use);
}

}  // namespace

cudaError_t PreparePrefillAttention() {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int32_t head_dim : kTensorHeadDims) {
      const cudaError_t error = WithInstance(dtype, head_dim, [](auto instance) {
        return AllowShared(instance.kKernel, decltype(instance)::S::kSharedBytes);
      });
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

cudaError_t LaunchPrefillAttention(const PagedAttentionArgs& args, int32_t num_tokens,
                                   int32_t num_sequences, cudaStream_t stream) {
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  return WithInstance(args.dtype, args.kv.head_dim, [&](auto instance) {
    using S = typename decltype(instance)::S;
    const int32_t tiles = MaxPrefillTiles(num_tokens, num_sequences, group, S::kRows);
    return LaunchChained(instance.kKernel, dim3(args.kv.num_kv_heads, tiles), kThreads,
                         S::kSharedBytes, stream, args, args.scale * kLog2E);
  });
}

}  // namespace fathom::kernels::cuda
