// Prefill on Hopper, head_dim 64 and 128: tensor copies bring keys and values straight from the
// blocks of the cache, asynchronous products work on them.
//
// A tile is 128 rows. The first warpgroup only copies; the other two own 64 rows each. While the
// tensor cores multiply a step's scores and the weighted values of the step before, a warpgroup
// turns the scores it has into weights; the two take turns at the tensor cores, so that one
// multiplies while the other takes exponentials.

#include <cudaTypedefs.h>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace fathom::kernels::cuda {
namespace hopper {
namespace {

constexpr int32_t kGroupThreads = 128;
constexpr int32_t kCopyWarps = kGroupThreads / 32;
constexpr int32_t kConsumers = 2;
constexpr int32_t kThreads = (1 + kConsumers) * kGroupThreads;
constexpr int32_t kConsumerThreads = kConsumers * kGroupThreads;
constexpr int32_t kGroupRows = 64;
constexpr int32_t kRows = kConsumers * kGroupRows;
constexpr int32_t kKeys = 128;  // a step
constexpr int32_t kStages = 3;  // as many as fit
constexpr int32_t kChains = 4;
constexpr uint32_t kAllLanes = 0xFFFFFFFFU;

// Barriers of the block besides __syncthreads; a consumer adds its index to the first of two.
constexpr int32_t kTurn = 1;
constexpr int32_t kZeroed = 3;
constexpr int32_t kGroup = 4;

// Registers of 64 K: what the copying warpgroup does without, the others get.
constexpr int32_t kProducerRegisters = 24;
constexpr int32_t kConsumerRegisters = 240;

template <int kDim>
struct Shape {
  static constexpr int32_t kColumns = kDim / 64;
  static constexpr int32_t kQueryColumnBytes = kRows * 128;
  static constexpr int32_t kKeyColumnBytes = kKeys * 128;
  static constexpr int32_t kQueryBytes = kColumns * kQueryColumnBytes;
  static constexpr int32_t kTileBytes = kColumns * kKeyColumnBytes;
  static constexpr int32_t kBarrierBytes = 4 * kStages * 8;
  // The front is aligned by hand.
  static constexpr int32_t kSharedBytes =
      1024 + kQueryBytes + 2 * kStages * kTileBytes + kBarrierBytes;
};

// Shared memory, and the barriers of its ring of steps.
template <int kDim>
struct Memory {
  using S = Shape<kDim>;

  uint32_t base;

  __device__ uint32_t Queries() const { return base; }
  __device__ uint32_t Keys(int32_t stage) const {
    return base + S::kQueryBytes + stage * S::kTileBytes;
  }
  __device__ uint32_t Values(int32_t stage) const { return Keys(kStages + stage); }
  __device__ uint32_t Barrier(int32_t index) const { return Keys(2 * kStages) + index * 8; }
  __device__ uint32_t KeysFull(int32_t stage) const { return Barrier(stage); }
  __device__ uint32_t KeysEmpty(int32_t stage) const { return Barrier(kStages + stage); }
  __device__ uint32_t ValuesFull(int32_t stage) const { return Barrier(2 * kStages + stage); }
  __device__ uint32_t ValuesEmpty(int32_t stage) const { return Barrier(3 * kStages + stage); }

  // Of an address, for ordinary accesses.
  __device__ char* At(uint32_t address) const {
    return DynamicShared() + (address - SharedAddress(DynamicShared()));
  }
  __device__ void InitBarriers() const {
    for (int32_t i = 0; i < kStages; ++i) {
      InitBarrier(KeysFull(i), 1);
      InitBarrier(ValuesFull(i), 1);
      InitBarrier(KeysEmpty(i), kConsumers * 4);
      InitBarrier(ValuesEmpty(i), kConsumers * 4);
    }
    FenceBarrierInit();
  }
};

// Where in the ring a step lies, counted from the tile's first.
struct Slot {
  int32_t stage;
  uint32_t parity;

  __device__ explicit Slot(int32_t step) : stage(step % kStages), parity(step / kStages % 2) {}
};

// By the first warpgroup. A thread copies one block of the cache, and the blocks of a step go round
// the warps: a warp starts one copy after the other, and alone would be late. Blocks in which
// nothing is visible are replaced by ones that are there.
template <int kDim>
__device__ void CopySteps(const PagedAttentionArgs& args, const Tile& tile, const CUtensorMap* keys,
                          const CUtensorMap* values, const Memory<kDim>& memory) {
  using S = Shape<kDim>;
  const int32_t piece = threadIdx.x % 32 * kCopyWarps + threadIdx.x / 32;
  const int32_t block_tokens = args.kv.block_tokens;
  const int32_t row = tile.kv_head * block_tokens;
  const int32_t* table =
      args.kv.block_tables + static_cast<int64_t>(tile.span.slot) * args.kv.max_blocks;
  const int32_t first_step = tile.keys.first / kKeys;
  const int32_t num_steps = tile.keys.last / kKeys - first_step + 1;
  const bool copies = piece * block_tokens < kKeys;
  const auto look_up = [&](int32_t step) {
    const int32_t position = (first_step + step) * kKeys + piece * block_tokens;
    return __ldg(table + min(max(position, tile.keys.first), tile.keys.last) / block_tokens);
  };
  const auto copy = [&](const CUtensorMap* map, uint32_t to, int32_t block, uint32_t full) {
    if (threadIdx.x == 0) ArriveExpecting(full, S::kTileBytes);
    __syncwarp();
    if (!copies) return;
#pragma unroll
    for (int32_t i = 0; i < S::kColumns; ++i) {
      CopyBox(to + i * S::kKeyColumnBytes + piece * block_tokens * 128, map, i * 64, row, block,
              full);
    }
  };
  int32_t block = look_up(0);
  for (int32_t step = 0; step < num_steps; ++step) {
    const int32_t next_block = look_up(min(step + 1, num_steps - 1));
    const Slot slot(step);
    WaitPhase(memory.KeysEmpty(slot.stage), slot.parity ^ 1);
    copy(keys, memory.Keys(slot.stage), block, memory.KeysFull(slot.stage));
    WaitPhase(memory.ValuesEmpty(slot.stage), slot.parity ^ 1);
    copy(values, memory.Values(slot.stage), block, memory.ValuesFull(slot.stage));
    block = next_block;
  }
}

// A warpgroup and its 64 rows. Index j of the statistics is row lane / 4 + 8 * j of a warp's 16.
template <typename T, int kDim>
class Consumer {
  using S = Shape<kDim>;

 public:
  __device__ Consumer(const PagedAttentionArgs& args, const Tile& tile, const Memory<kDim>& memory,
                      float scale_log2)
      : args_(args),
        tile_(tile),
        memory_(memory),
        scale_log2_(scale_log2),
        index_(static_cast<int32_t>(threadIdx.x) / kGroupThreads - 1),
        thread_(static_cast<int32_t>(threadIdx.x) % kGroupThreads),
        lane_(static_cast<int32_t>(threadIdx.x) % 32),
        first_step_(tile.keys.first / kKeys) {}

  __device__ void Run() {
    const int32_t num_steps = tile_.keys.last / kKeys - first_step_ + 1;
    const KeyRange seen = tile_.SeenByAll(args_.window);
    LoadQueries();
    float output[kDim / 8][4] = {};
    float score[kKeys / 8][4];
    uint32_t weight[kKeys / 16][4];
    WaitPhase(memory_.KeysFull(0), 0);
    MultiplyScores(score, 0);
    WaitProducts<0>();
    Pin(score);
    Release(memory_.KeysEmpty(0));
    if (index_ == 1 && num_steps > 1) ReportAt<kConsumerThreads>(kTurn);
    float rescale[2];
    Soften(score, 0, seen, rescale);
    Pack(score, weight);
    for (int32_t step = 1; step < num_steps; ++step) {
      const Slot now(step);
      const Slot before(step - 1);
      WaitForValues(step - 1);
      WaitPhase(memory_.KeysFull(now.stage), now.parity);
      MeetAt<kConsumerThreads>(kTurn + index_);
      MultiplyScores(score, now.stage);
      MultiplyValues(output, weight, before.stage);
      // Nobody waits for the second's last report.
      if (index_ == 0 || step < num_steps - 1) ReportAt<kConsumerThreads>(kTurn + 1 - index_);
      WaitProducts<1>();
      Pin(score);
      Release(memory_.KeysEmpty(now.stage));
      Soften(score, step, seen, rescale);
      // All lanes, always. The assembler takes it for a branch on the sums: it would otherwise move
      // the wait in front of the exponentials, and nothing would overlap.
      __syncwarp(sum_[0] < 0 || sum_[1] < 0 ? 1U : kAllLanes);
      WaitProducts<0>();
      Pin(output);
      Release(memory_.ValuesEmpty(before.stage));
#pragma unroll
      for (int32_t i = 0; i < kDim / 8; ++i) {
        for (int32_t j = 0; j < 4; ++j) output[i][j] *= rescale[j / 2];
      }
      Pack(score, weight);
    }
    WaitForValues(num_steps - 1);
    MultiplyValues(output, weight, Slot(num_steps - 1).stage);
    WaitProducts<0>();
    Pin(output);
    Store(output);
  }

 private:
  // Rows that are padding become zero.
  __device__ void LoadQueries() const {
    const int32_t heads = args_.num_q_heads + 2 * args_.kv.num_kv_heads;
#pragma unroll
    for (int32_t i = 0; i < kGroupRows * kDim / 8 / kGroupThreads; ++i) {
      const int32_t vector = i * kGroupThreads + thread_;
      const int32_t row = index_ * kGroupRows + vector / (kDim / 8);
      const int32_t piece = vector % (kDim / 8);
      const bool valid = row < tile_.num_rows;
      const T* from =
          static_cast<const T*>(args_.qkv) + tile_.Offset(valid ? row : 0, heads, kDim) + piece * 8;
      CopyAsync16OrZero(QueryPiece(row, piece), from, valid);
    }
    CopyAsyncCommit();
    CopyAsyncWait<0>();
    FenceAsyncProxy();
    MeetAt<kGroupThreads>(kGroup + index_);
  }

  __device__ uint32_t QueryPiece(int32_t row, int32_t piece) const {
    return memory_.Queries() + piece / 8 * S::kQueryColumnBytes + Swizzled(row, piece % 8);
  }

  // One arrival a warp, when all of its lanes are done with a tile.
  __device__ void Release(uint32_t barrier) const {
    if (lane_ == 0) Arrive(barrier);
  }

  __device__ void MultiplyScores(float (&score)[kKeys / 8][4], int32_t stage) const {
    const uint32_t queries = memory_.Queries() + index_ * kGroupRows * 128;
    const uint32_t keys = memory_.Keys(stage);
    Pin(score);
    FenceProducts();
#pragma unroll
    for (int32_t i = 0; i < kDim / 16; ++i) {
      MultiplyRows<T>(score, RowOperand(queries + i / 4 * S::kQueryColumnBytes + i % 4 * 32),
                      RowOperand(keys + i / 4 * S::kKeyColumnBytes + i % 4 * 32), i > 0);
    }
    CommitProducts();
  }

  __device__ void MultiplyValues(float (&output)[kDim / 8][4], uint32_t (&weight)[kKeys / 16][4],
                                 int32_t stage) const {
    Pin(output);
    FenceProducts();
#pragma unroll
    for (int32_t i = 0; i < kKeys / 16; ++i) {
      MultiplyColumns<T>(output, weight[i],
                         ColumnOperand(memory_.Values(stage) + i * 16 * 128, S::kKeyColumnBytes));
    }
    CommitProducts();
  }

  // What nobody may see must be zero, for it may be anything and a weight of zero does not silence
  // a NaN.
  __device__ void WaitForValues(int32_t step) const {
    const Slot slot(step);
    WaitPhase(memory_.ValuesFull(slot.stage), slot.parity);
    const int32_t begin = (first_step_ + step) * kKeys;
    if (begin >= tile_.keys.first && begin + kKeys - 1 <= tile_.keys.last) return;
    for (int32_t vector = index_ * kGroupThreads + thread_; vector < kKeys * kDim / 8;
         vector += kConsumerThreads) {
      const int32_t row = vector / (kDim / 8);
      const int32_t piece = vector % (kDim / 8);
      if (begin + row >= tile_.keys.first && begin + row <= tile_.keys.last) continue;
      const uint32_t at =
          memory_.Values(slot.stage) + piece / 8 * S::kKeyColumnBytes + Swizzled(row, piece % 8);
      *reinterpret_cast<uint4*>(memory_.At(at)) = make_uint4(0, 0, 0, 0);
    }
    FenceAsyncProxy();
    MeetAt<kConsumerThreads>(kZeroed);
  }

  // Scores become weights. `rescale` takes earlier sums to the new maxima.
  __device__ void Soften(float (&score)[kKeys / 8][4], int32_t step, KeyRange seen,
                         float (&rescale)[2]) {
    const int32_t begin = (first_step_ + step) * kKeys;
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
      subtrahend[j] = Subtrahend(all) * scale_log2_;
      rescale[j] = FastExp2(maximum_[j] * scale_log2_ - subtrahend[j]);
      maximum_[j] = all;
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

  // Through the place of the warp's queries, so that rows are written whole.
  __device__ void Store(const float (&output)[kDim / 8][4]) const {
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      float total = sum_[j];
      for (int32_t distance = 1; distance < 4; distance *= 2) {
        total += __shfl_xor_sync(kAllLanes, total, distance);
      }
      const float factor = 1.0F / total;
#pragma unroll
      for (int32_t n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(memory_.At(QueryPiece(Row(j), n)) + lane_ % 4 * 4) =
            PackPair<T>(output[n][2 * j] * factor, output[n][2 * j + 1] * factor);
      }
    }
    __syncwarp();
    const int32_t first_row = index_ * kGroupRows + thread_ / 32 * 16;
    for (int32_t vector = lane_; vector < 16 * kDim / 8; vector += 32) {
      const int32_t row = first_row + vector / (kDim / 8);
      const int32_t piece = vector % (kDim / 8);
      if (row >= tile_.num_rows) break;
      T* out = static_cast<T*>(args_.out) + tile_.Offset(row, args_.num_q_heads, kDim) + piece * 8;
      *reinterpret_cast<uint4*>(out) =
          *reinterpret_cast<const uint4*>(memory_.At(QueryPiece(row, piece)));
    }
  }

  const PagedAttentionArgs& args_;
  const Tile tile_;  // of its own: what lies in shared memory would be read again every step
  const Memory<kDim> memory_;
  const float scale_log2_;
  const int32_t index_;
  const int32_t thread_;
  const int32_t lane_;
  const int32_t first_step_;
  float maximum_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {0, 0};
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    PrefillKernel(const __grid_constant__ PagedAttentionArgs args,
                  const __grid_constant__ CUtensorMap keys,
                  const __grid_constant__ CUtensorMap values, float scale_log2) {
  __shared__ Tile tile;
  const Memory<kDim> memory{(SharedAddress(DynamicShared()) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) {
    PrefetchMap(&keys);
    PrefetchMap(&values);
    memory.InitBarriers();
  }
  LetSuccessorStart();
  WaitForPredecessor();
  // Synchronises the block, barriers included.
  if (!FindTile<kThreads, kRows>(args, tile)) return;
  if (threadIdx.x < kGroupThreads) {
    ShrinkRegisters<kProducerRegisters>();
    CopySteps<kDim>(args, tile, &keys, &values, memory);
  } else {
    GrowRegisters<kConsumerRegisters>();
    Consumer<T, kDim>(args, tile, memory, scale_log2).Run();
  }
}

// Asked of the runtime, so that nothing links against the driver.
PFN_cuTensorMapEncodeTiled_v12000 Encoder() {
  static const auto encoder = []() -> PFN_cuTensorMapEncodeTiled_v12000 {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
      return nullptr;
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

// One layer's keys or values, at `offset` of each block: [blocks, kv heads * tokens, head_dim]; a
// box is 64 elements of a head's tokens in a block.
cudaError_t EncodeMap(const PagedAttentionArgs& args, int64_t offset, CUtensorMap* map) {
  const PFN_cuTensorMapEncodeTiled_v12000 encode = Encoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  const KvCacheView& kv = args.kv;
  // More blocks than there can be: nothing is read that the tables do not name.
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(kv.head_dim),
                               static_cast<cuuint64_t>(kv.num_kv_heads) * kv.block_tokens,
                               cuuint64_t{1} << 24};
  const cuuint64_t strides[2] = {sizes[0] * SizeOf(args.dtype),
                                 static_cast<cuuint64_t>(kv.block_bytes)};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(kv.block_tokens), 1};
  const cuuint32_t element_strides[3] = {1, 1, 1};
  const CUtensorMapDataType type = args.dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                              : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult result =
      encode(map, type, 3, static_cast<char*>(kv.arena) + offset, sizes, strides, box,
             element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename T, int kDim>
struct Instance {
  static constexpr auto kKernel = PrefillKernel<T, kDim>;
  static constexpr int32_t kSharedBytes = Shape<kDim>::kSharedBytes;
};

// Calls `use` with the kernel for a type and a head_dim.
template <typename Use>
cudaError_t WithInstance(DType dtype, int32_t head_dim, const Use& use) {
  if (dtype == DType::kBF16) {
    return head_dim == 64 ? use(Instance<__nv_bfloat16, 64>())
                          : use(Instance<__nv_bfloat16, 128>());
  }
  return head_dim == 64 ? use(Instance<__half, 64>()) : use(Instance<__half, 128>());
}

}  // namespace
}  // namespace hopper

bool FitsHopperPrefill(const KvCacheView& kv) {
  return (kv.head_dim == 64 || kv.head_dim == 128) && hopper::kKeys % kv.block_tokens == 0 &&
         kv.block_tokens % kBlockTokensStep == 0;
}

cudaError_t PrepareHopperPrefillAttention() {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int32_t head_dim : {64, 128}) {
      const cudaError_t error = hopper::WithInstance(dtype, head_dim, [](auto instance) {
        return AllowShared(instance.kKernel, instance.kSharedBytes);
      });
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

cudaError_t LaunchHopperPrefillAttention(const PagedAttentionArgs& args, int32_t num_tokens,
                                         int32_t num_sequences, cudaStream_t stream) {
  CUtensorMap keys;
  CUtensorMap values;
  cudaError_t error = hopper::EncodeMap(args, args.kv.layer_offset, &keys);
  if (error == cudaSuccess) error = hopper::EncodeMap(args, args.kv.value_offset, &values);
  if (error != cudaSuccess) return error;
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  const int32_t tiles = MaxPrefillTiles(num_tokens, num_sequences, group, hopper::kRows);
  return hopper::WithInstance(args.dtype, args.kv.head_dim, [&](auto instance) {
    return LaunchChained(instance.kKernel, dim3(args.kv.num_kv_heads, tiles), hopper::kThreads,
                         instance.kSharedBytes, stream, args, keys, values, args.scale * kLog2E);
  });
}

}  // namespace fathom::kernels::cuda
