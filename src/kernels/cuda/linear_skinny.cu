// Few rows of x against a large W, as fast as memory delivers W. A producer thread streams tiles of
// W, and the matching columns of x, through a ring of stages in shared memory with tensor copies;
// eight warps multiply them on the tensor cores with W as the operand of 16 rows and the tokens as
// the one of 8 columns, so that padding a few tokens costs arithmetic only, of which there is
// plenty. skinny_plan.h says how the work is cut.

#include <algorithm>

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_check.h"
#include "kernels/cuda/skinny_plan.h"
#include "kernels/cuda/skinny_ptx.cuh"
#include "kernels/cuda/skinny_store.cuh"
#include "kernels/cuda/skinny_stream.cuh"
#include "kernels/cuda/tensor_map.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kConsumerThreads = 32 * kSkinnyConsumerWarps;
constexpr int kThreads = kConsumerThreads + 32;

template <typename T, int kTokens>
class Consumer {
 public:
  static constexpr SkinnyShape kShape = SkinnyShapeOf(kTokens);
  static constexpr int kRowTiles = kShape.row_tiles;
  static constexpr int kTokenTiles = kTokens / 8;
  static constexpr bool kFuses = SkinnyStore<T, kTokens>::kFuses;
  static constexpr int kColumnGroups = kShape.ColumnGroups();
  static constexpr int kPassTokens = kShape.pass_tokens;
  static constexpr int kMaxTileRows = kShape.MaxTileRows();

  __device__ explicit Consumer(const SkinnyParams& params)
      : params_(params),
        plan_(params.plan),
        layout_(params.layout),
        store_(params),
        lane_(threadIdx.x % 32),
        row_group_(threadIdx.x / 32 % kShape.row_groups),
        column_group_(threadIdx.x / 32 / kShape.row_groups) {
    const int32_t piece = 2 * kSteps * (column_group_ % 4);
    const int32_t first_box = column_group_ / 4;
    const int32_t swizzle = lane_ & 7;
    a_offset_ = first_box * layout_.box_bytes + (row_group_ * 16 + lane_ % 16) * 128 +
                ((piece + lane_ / 16) ^ swizzle) * 16;
    b_offset_ = layout_.x_offset +
                (first_box * kTokens + swizzle + (kTokens > 8 ? lane_ / 16 * 8 : 0)) * 128 +
                ((piece + lane_ / 8 % 2) ^ swizzle) * 16;
  }

  __device__ void Run() {
    // Results go where kernels ahead may still read.
    WaitForPredecessor();
    typename SkinnyStore<T, kTokens>::Squares squares;
    if constexpr (kFuses) squares = store_.LoadSquares();
    SkinnyCursor cursor(plan_, blockIdx.x);
    SkinnyRingSlot slot;
    const int32_t first_tile = cursor.tile;
    while (cursor.left > 0) {
      const int32_t tile = cursor.tile;
      const int32_t units = min(cursor.left, plan_.units_per_tile - cursor.unit);
      const bool adds = kFuses && params_.fusion.residual != nullptr;
      Residual residual;
      if (adds) residual = LoadResidual(tile, 0);
#pragma unroll
      for (auto& row : sums_) {
#pragma unroll
        for (auto& fragment : row) {
#pragma unroll
          for (float& sum : fragment) sum = 0;
        }
      }
      for (int32_t i = 0; i < units; ++i) {
        ptx::WaitParity(FullBarrier(layout_, slot.index), slot.parity);
        AddUnit(StageAddress(layout_, slot.index));
        __syncwarp();
        if (lane_ == 0) ptx::Arrive(EmptyBarrier(layout_, slot.index));
        slot.Advance(plan_.stages);
      }
      cursor.FinishTile(units);
      if (kFuses && tile == first_tile) store_.PrepareScales(squares);
      if (adds) {
        AddTileToResidual(tile, residual);
        continue;
      }
      FinishTile(tile, units == plan_.units_per_tile,
                 2 * static_cast<int32_t>(blockIdx.x) + (tile == first_tile ? 0 : 1));
    }
  }

 private:
  // Of the four steps of 16 columns in a box, a warp's.
  static constexpr int kSteps = kColumnGroups >= 4 ? 1 : 4 / kColumnGroups;

  // Rows of this warp come in tiles of 16, tile t of row group g being tile t * row_groups + g.
  __device__ int32_t FirstRow(int t) const { return (t * kShape.row_groups + row_group_) * 16; }

  __device__ void AddUnit(uint32_t stage) {
    uint32_t a_address = stage + a_offset_;
    uint32_t b_address = stage + b_offset_;
    // Fewer registers are worth more than overlap where many sums are held.
#pragma unroll(kTokens >= 32 ? 1 : 2)
    for (int32_t box = column_group_ / 4; box < plan_.boxes; box += kShape.BoxStep()) {
#pragma unroll
      // Boxes are aligned, so the bit that tells one step's piece from the next is free to flip.
      for (int s = 0; s < kSteps; ++s) AddStep(a_address ^ (s * 32), b_address ^ (s * 32));
      a_address += kShape.BoxStep() * layout_.box_bytes;
      b_address += kShape.BoxStep() * kTokens * 128;
    }
  }

  // Products of 16 columns. The operand with fewer fragments is held.
  __device__ void AddStep(uint32_t a_address, uint32_t b_address) {
    constexpr int kRowTileBytes = kShape.row_groups * 16 * 128;
    if constexpr (kTokenTiles <= 2 * kRowTiles) {
      uint32_t b[kTokenTiles][2];
      if constexpr (kTokenTiles == 1) {
        ptx::LoadMatrices2(b[0], b_address);
      } else {
#pragma unroll
        for (int j = 0; j < kTokenTiles; j += 2) {
          ptx::LoadMatrices4(b[j], b[j + 1], b_address + j * 1024);
        }
      }
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        if (FirstRow(t) >= plan_.tile_rows) break;
        uint32_t a[4];
        ptx::LoadMatrices4(a, a_address + t * kRowTileBytes);
#pragma unroll
        for (int j = 0; j < kTokenTiles; ++j) ptx::MultiplyAdd<T>(sums_[t][j], a, b[j]);
      }
    } else {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        if (FirstRow(t) >= plan_.tile_rows) break;
        ptx::LoadMatrices4(a[t], a_address + t * kRowTileBytes);
      }
#pragma unroll
      for (int j = 0; j < kTokenTiles; j += 2) {
        uint32_t b[2][2];
        ptx::LoadMatrices4(b[0], b[1], b_address + j * 1024);
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) {
          if (FirstRow(t) >= plan_.tile_rows) break;
          ptx::MultiplyAdd<T>(sums_[t][j], a[t], b[0]);
          ptx::MultiplyAdd<T>(sums_[t][j + 1], a[t], b[1]);
        }
      }
    }
  }

  // Adds up what the column groups hold and stores it, as a result or as one part of it.
  __device__ void FinishTile(int32_t tile, bool whole, int32_t slot) {
#pragma unroll
    for (int pass = 0; pass < kTokens / kPassTokens; ++pass) {
      const int32_t token0 = pass * kPassTokens;
      if (token0 >= params_.rows) break;
      StoreFragments<kPassTokens / 8>(pass * (kPassTokens / 8));
      ptx::NamedBarrier<kConsumerThreads>();
      if (kFuses && params_.fusion.gated) {
        ForEachSum(token0, plan_.tile_rows / 2, [&](int32_t row, int32_t token) {
          const int32_t half = plan_.tile_rows / 2;
          store_.Gated(tile * half + row, token, Sum(row, token - token0),
                       Sum(row + half, token - token0));
        });
      } else {
        ForEachSum(token0, plan_.tile_rows, [&](int32_t row, int32_t token) {
          const float sum = Sum(row, token - token0);
          if (whole) {
            store_.Result(tile * plan_.tile_rows + row, token, sum);
          } else {
            Partial(slot)[token * plan_.tile_rows + row] = sum;
          }
        });
      }
      ptx::NamedBarrier<kConsumerThreads>();
    }
    if (!whole) CombineParts(tile);
  }

  // Neighbouring threads take neighbouring rows.
  template <typename Act>
  __device__ void ForEachSum(int32_t token0, int32_t rows, const Act& act) const {
    for (int32_t i = threadIdx.x; i < kPassTokens * kMaxTileRows; i += kConsumerThreads) {
      const int32_t row = i % kMaxTileRows;
      const int32_t token = token0 + i / kMaxTileRows;
      if (row < rows && token < params_.rows) act(row, token);
    }
  }

  // Over the column groups, of a token counted from the pass's first.
  __device__ float Sum(int32_t row, int32_t token) const {
    const int32_t pitch = SkinnySumPitch(plan_.tile_rows);
    float sum = 0;
#pragma unroll
    for (int g = 0; g < kColumnGroups; ++g) {
      sum += Sums(layout_)[(g * kPassTokens + token) * pitch + row];
    }
    return sum;
  }

  // What a thread adds a pass of a tile to: of one row of the tile, every kTokenStep-th token.
  static constexpr int kEach = kPassTokens * kMaxTileRows / kConsumerThreads;
  static constexpr int kTokenStep = kConsumerThreads / kMaxTileRows;
  static_assert(kMaxTileRows % 32 == 0 && kEach * kTokenStep == kPassTokens);
  struct Residual {
    float norm_weight = 0;
    float old[kEach] = {};
  };

  __device__ bool HasResult(int32_t tile, int32_t row) const {
    return row < plan_.tile_rows && tile * plan_.tile_rows + row < params_.n;
  }

  __device__ Residual LoadResidual(int32_t tile, int32_t token0) const {
    Residual out;
    const int32_t row = threadIdx.x % kMaxTileRows;
    if (!HasResult(tile, row)) return out;
    const int32_t column = tile * plan_.tile_rows + row;
    out.norm_weight = store_.NormWeight(column);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t token = token0 + threadIdx.x / kMaxTileRows + i * kTokenStep;
      if (token < params_.rows) out.old[i] = store_.OldResidual(column, token);
    }
    return out;
  }

  // A whole tile; what the next pass adds to is read while this one is added up.
  __device__ void AddTileToResidual(int32_t tile, Residual residual) {
    const int32_t row = threadIdx.x % kMaxTileRows;
    const int32_t column = tile * plan_.tile_rows + row;
    const int32_t warps = (plan_.tile_rows + 31) / 32;  // of a token
    const bool has_result = HasResult(tile, row);
#pragma unroll
    for (int pass = 0; pass < kTokens / kPassTokens; ++pass) {
      const int32_t token0 = pass * kPassTokens;
      if (token0 >= params_.rows) break;
      StoreFragments<kPassTokens / 8>(pass * (kPassTokens / 8));
      Residual next;
      if (token0 + kPassTokens < params_.rows) next = LoadResidual(tile, token0 + kPassTokens);
      ptx::NamedBarrier<kConsumerThreads>();
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int32_t in_pass = threadIdx.x / kMaxTileRows + i * kTokenStep;
        const int32_t token = token0 + in_pass;
        // Of a warp all lanes go on or none: it has one token, and 32 rows whose squares it adds.
        if (row / 32 >= warps || token >= params_.rows) continue;
        const float result = has_result
                                 ? store_.AddedToResidual(column, token, Sum(row, in_pass),
                                                          residual.old[i], residual.norm_weight)
                                 : 0;
        store_.KeepSquares(row < plan_.tile_rows ? column : params_.n, token, result);
      }
      ptx::NamedBarrier<kConsumerThreads>();
      residual = next;
    }
  }

  template <int kTiles>
  __device__ void StoreFragments(int first_token_tile) {
    const int32_t pitch = SkinnySumPitch(plan_.tile_rows);
    float* group = Sums(layout_) + column_group_ * kPassTokens * pitch;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      if (FirstRow(t) >= plan_.tile_rows) break;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const float(&c)[4] = sums_[t][first_token_tile + j];
        float* to = group + (j * 8 + lane_ % 4 * 2) * pitch + FirstRow(t) + lane_ / 4;
        to[0] = c[0];
        to[pitch] = c[1];
        to[8] = c[2];
        to[pitch + 8] = c[3];
      }
    }
  }

  __device__ float* Partial(int32_t slot) const {
    return params_.partials + static_cast<int64_t>(slot) * params_.rows * plan_.tile_rows;
  }

  // The last of the tile's blocks to come here sums all their parts, in the order of the blocks.
  __device__ void CombineParts(int32_t tile) {
    const int64_t units = static_cast<int64_t>(plan_.tiles) * plan_.units_per_tile;
    const int64_t begin = static_cast<int64_t>(tile) * plan_.units_per_tile;
    const int32_t first = SkinnyShareOwner(units, plan_.blocks, begin);
    const int32_t last = SkinnyShareOwner(units, plan_.blocks, begin + plan_.units_per_tile - 1);
    __threadfence();
    ptx::NamedBarrier<kConsumerThreads>();
    if (threadIdx.x == 0) {
      const auto others = static_cast<uint32_t>(last - first);
      const bool is_last = atomicAdd(params_.counters + first, 1U) == others;
      if (is_last) params_.counters[first] = 0;
      IsLastFlag(layout_) = is_last ? 1 : 0;
      __threadfence();
    }
    ptx::NamedBarrier<kConsumerThreads>();
    if (IsLastFlag(layout_) == 0) return;
    const int32_t count = params_.rows * kMaxTileRows;
    for (int32_t i = threadIdx.x; i < count; i += kConsumerThreads) {
      const int32_t row = i % kMaxTileRows;
      const int32_t token = i / kMaxTileRows;
      if (row >= plan_.tile_rows) continue;
      float sum = 0;
      for (int32_t block = first; block <= last; ++block) {
        const int32_t slot =
            SkinnyPartialSlot(units, plan_.blocks, plan_.units_per_tile, block, tile);
        sum += __ldcg(Partial(slot) + token * plan_.tile_rows + row);
      }
      store_.Result(tile * plan_.tile_rows + row, token, sum);
    }
  }

  const SkinnyParams& params_;
  const SkinnyPlan& plan_;
  const SkinnyLayout& layout_;
  const SkinnyStore<T, kTokens> store_;
  const int32_t lane_;
  const int32_t row_group_;
  const int32_t column_group_;
  int32_t a_offset_;  // of this lane's row for the first matrix load of a unit
  int32_t b_offset_;
  float sums_[kRowTiles][kTokenTiles][4];
};

template <typename T, int kTokens>
__global__ void __launch_bounds__(kThreads, 2)
    SkinnyKernel(const __grid_constant__ SkinnyParams params) {
  const SkinnyLayout& layout = params.layout;
  if (threadIdx.x == 0) {
    if (ptx::SharedAddress(skinny_shared) % 1024 != 0) __trap();
    for (int32_t i = 0; i < params.plan.stages; ++i) {
      ptx::InitBarrier(FullBarrier(layout, i), 1);
      ptx::InitBarrier(EmptyBarrier(layout, i), kSkinnyConsumerWarps);
    }
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x == kConsumerThreads) SkinnyProducer(params).Run();
  } else {
    Consumer<T, kTokens>(params).Run();
  }
}

using Kernel = void (*)(SkinnyParams);

template <typename T>
Kernel KernelFor(int32_t tokens) {
  switch (tokens) {
    case 8:
      return SkinnyKernel<T, 8>;
    case 16:
      return SkinnyKernel<T, 16>;
    case 32:
      return SkinnyKernel<T, 32>;
    default:
      return SkinnyKernel<T, 64>;
  }
}

SkinnyNeeds NeedsOf(const LinearFusion& fusion) {
  return {.whole_tiles = fusion.gated || fusion.residual != nullptr,
          .rows_by_16 = fusion.gated || fusion.residual != nullptr};
}

bool IsSound(const LinearArgs& args, const WeightView& weight, const SkinnyPlan& plan) {
  const LinearFusion& fusion = args.fusion;
  if (!fusion.empty() && args.rows > kSkinnyFusedRowsMax) return false;
  if (!fusion.gated && fusion.residual == nullptr) return true;
  if (!NeedsOf(fusion).HeldBy(plan) || args.out_dtype != args.dtype) return false;
  if (fusion.gated) return fusion.residual == nullptr && weight.rows % 2 == 0;
  return fusion.norm_weight != nullptr && fusion.residual_squares != nullptr &&
         fusion.square_pitch >= SquareParts(weight.rows);
}

}  // namespace

cudaError_t LaunchSkinnyLinear(const LinearArgs& args, const WeightView& weight,
                               const SkinnyPlan& plan, void* workspace, size_t workspace_bytes,
                               const LaunchOptions& options, cudaStream_t stream) {
  if (!IsStreamed(args, weight) || !IsValidSkinnyPlan(plan, args.rows, weight.rows, weight.cols) ||
      !IsSound(args, weight, plan)) {
    return cudaErrorInvalidValue;
  }
  const size_t parts =
      plan.split ? sizeof(float) * 2 * plan.blocks * args.rows * plan.tile_rows : 0;
  if (parts > 0 && (workspace == nullptr || workspace_bytes < kSkinnyCounterBytes + parts)) {
    return cudaErrorInvalidValue;
  }
  SkinnyParams params;
  cudaError_t error = args.fusion.gated
                          ? EncodeHalvesTensorMap(weight.data, weight.rows, weight.cols,
                                                  weight.dtype, plan.tile_rows, &params.weight)
                          : EncodeTensorMap(weight.data, weight.rows, weight.cols, weight.dtype,
                                            plan.tile_rows, &params.weight);
  if (error != cudaSuccess) return error;
  error = EncodeTensorMap(args.x, args.rows, weight.cols, args.dtype, plan.tokens, &params.x);
  if (error != cudaSuccess) return error;
  params.out = args.out;
  params.bias = args.bias;
  params.counters = static_cast<uint32_t*>(workspace);
  params.partials = reinterpret_cast<float*>(static_cast<char*>(workspace) + kSkinnyCounterBytes);
  params.rows = args.rows;
  params.n = weight.rows;
  params.k = weight.cols;
  params.fusion = args.fusion;
  params.out_dtype = args.out_dtype;
  params.plan = plan;
  params.layout = SkinnyLayoutOf(plan);

  const Kernel kernel = args.dtype == DType::kBF16 ? KernelFor<__nv_bfloat16>(plan.tokens)
                                                   : KernelFor<__half>(plan.tokens);
  error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSkinnySharedBytes);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(plan.blocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = params.layout.bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = options.programmatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

cudaError_t LaunchSkinnyLinear(const LinearArgs& args, const WeightView& weight, void* workspace,
                               size_t workspace_bytes, const LaunchOptions& options,
                               cudaStream_t stream) {
  if (args.rows < 1 || args.rows > kSkinnyRowsMax || weight.rows < 1 || weight.cols < 1) {
    return cudaErrorInvalidValue;
  }
  const SkinnyPlan plan =
      PlanSkinny(options.row_invariant ? kSkinnyRowsMax : args.rows, weight.rows, weight.cols,
                 options.num_multiprocessors, NeedsOf(args.fusion));
  return LaunchSkinnyLinear(args, weight, plan, workspace, workspace_bytes, options, stream);
}

}  // namespace fathom::kernels::cuda
