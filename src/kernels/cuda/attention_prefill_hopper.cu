// Prefill on Hopper, head_dim 64 and 128: tensor copies bring keys and values straight from the
// blocks of the cache, asynchronous products work on them.
//
// A tile is 128 rows. The first warpgroup only copies; the other two own 64 rows each. While the
// tensor cores multiply a step's scores and the weighted values of the step before, a warpgroup
// turns the scores it has into weights; the two take turns at the tensor cores, so that one
// multiplies while the other takes exponentials. There is one block a multiprocessor.

#include <algorithm>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_prefill_consumer.cuh"

namespace fathom::kernels::cuda {
namespace hopper {
namespace {

// Registers of 64 K: what the copying warpgroup does without, the others get.
constexpr int32_t kProducerRegisters = 40;
constexpr int32_t kConsumerRegisters = 232;

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    PrefillKernel(const __grid_constant__ PagedAttentionArgs args,
                  const __grid_constant__ CUtensorMap keys,
                  const __grid_constant__ CUtensorMap values, float scale_log2, int32_t queries_min,
                  TileQueue* queue) {
  __shared__ Tile tiles[kBoarded];
  const Memory<kDim> memory{(SharedAddress(DynamicShared()) + 1023) / 1024 * 1024};
  if (threadIdx.x == 0) {
    PrefetchMap(&keys);
    PrefetchMap(&values);
    memory.InitBarriers();
  }
  __syncthreads();
  LetSuccessorStart();
  WaitForPredecessor();
  TileBoard<kDim> board(tiles, memory);
  if (threadIdx.x >= kGroupThreads) {
    GrowRegisters<kConsumerRegisters>();
    Consumer<T, kDim>(args, board, memory, scale_log2).Run();
    return;
  }
  ShrinkRegisters<kProducerRegisters>();
  StepCopier<kDim> copier(args, &keys, &values, memory);
  if (threadIdx.x >= 32) {
    for (Tile tile = board.Take(); tile.num_rows > 0; tile = board.Take()) copier.Copy(tile);
    return;
  }
  TileFinder finder(args, queries_min, queue);
  Tile tile = finder.Next();
  board.Post(tile);
  while (tile.num_rows > 0) {
    const Tile next = finder.Next();
    board.Post(next);
    copier.Copy(tile);
    tile = next;
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
                                         int32_t num_sequences, int32_t queries_min,
                                         int32_t num_multiprocessors, TileQueue* queue,
                                         cudaStream_t stream) {
  CUtensorMap keys;
  CUtensorMap values;
  cudaError_t error = hopper::EncodeMap(args, args.kv.layer_offset, &keys);
  if (error == cudaSuccess) error = hopper::EncodeMap(args, args.kv.value_offset, &values);
  if (error != cudaSuccess) return error;
  const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
  const int32_t tiles =
      MaxPrefillTiles(num_tokens, num_sequences, group, hopper::kRows) * args.kv.num_kv_heads;
  return hopper::WithInstance(args.dtype, args.kv.head_dim, [&](auto instance) {
    return LaunchChained(instance.kKernel, dim3(std::min(tiles, num_multiprocessors)),
                         hopper::kThreads, instance.kSharedBytes, stream, args, keys, values,
                         args.scale * kLog2E, queries_min, queue);
  });
}

}  // namespace fathom::kernels::cuda
