// Up to 64 rows of x against a large W, as fast as memory delivers W. Four producer threads stream
// tiles of W, and the matching columns of x, through a ring of stages in shared memory with tensor
// copies; two warpgroups multiply them asynchronously, straight out of shared memory, with W as the
// operand of 64 rows and the tokens as the columns. wide_plan.h says how the work is cut.

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_check.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wide_kernel.cuh"

namespace fathom::kernels::cuda {
namespace {

bool NeedsRowsBy16(const LinearFusion& fusion) {
  return fusion.gated || fusion.residual != nullptr;
}

bool IsSound(const LinearArgs& args, const WeightView& weight, const WidePlan& plan) {
  const LinearFusion& fusion = args.fusion;
  if (fusion.empty()) return true;
  if (args.dtype != DType::kBF16) return false;
  if (!NeedsRowsBy16(fusion)) return true;
  if (weight.rows % 16 != 0 || plan.tile_rows % 16 != 0 || args.out_dtype != args.dtype) {
    return false;
  }
  if (fusion.gated) return fusion.residual == nullptr;
  return fusion.norm_weight != nullptr && fusion.residual_squares != nullptr &&
         fusion.square_pitch >= SquareParts(weight.rows);
}

}  // namespace

cudaError_t LaunchWideLinear(const LinearArgs& args, const WeightView& weight, const WidePlan& plan,
                             const LaunchOptions& options, cudaStream_t stream) {
  if (!IsStreamed(args, weight) || weight.rows % 8 != 0 ||
      !IsValidWidePlan(plan, args.rows, weight.rows, weight.cols) || !IsSound(args, weight, plan)) {
    return cudaErrorInvalidValue;
  }
  WideParams params;
  const auto encode = args.fusion.gated ? EncodePairsTensorMap : EncodeTensorMap;
  cudaError_t error =
      encode(weight.data, weight.rows, weight.cols, weight.dtype, plan.tile_rows, &params.weight);
  if (error != cudaSuccess) return error;
  error = EncodeTensorMap(args.x, args.rows, weight.cols, args.dtype, plan.x_rows, &params.x);
  if (error != cudaSuccess) return error;
  params.out = args.out;
  params.bias = args.bias;
  params.rows = args.rows;
  params.n = weight.rows;
  params.k = weight.cols;
  params.out_dtype = args.out_dtype;
  params.fusion = args.fusion;
  params.plan = plan;
  params.layout = WideLayoutOf(plan);

  const bool fused = !args.fusion.empty();
  const WideKernelPointer kernel = fused ? FusedWideKernel(plan)
                                   : args.dtype == DType::kBF16
                                       ? wide::KernelFor<__nv_bfloat16, false>(plan)
                                       : wide::KernelFor<__half, false>(plan);
  error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kWideSharedBytes);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(plan.splits);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(plan.clusters * plan.splits);
  config.blockDim = dim3(WideThreads(fused));
  config.dynamicSmemBytes = params.layout.bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = options.programmatic ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

cudaError_t LaunchWideLinear(const LinearArgs& args, const WeightView& weight,
                             const LaunchOptions& options, cudaStream_t stream) {
  if (args.rows < 1 || args.rows > kWideRowsMax || weight.rows < 1 || weight.cols < 1) {
    return cudaErrorInvalidValue;
  }
  const int32_t planned = options.row_invariant ? kWideRowsMax : args.rows;
  return LaunchWideLinear(args, weight,
                          PlanWide(planned, weight.rows, weight.cols, options.num_multiprocessors,
                                   NeedsRowsBy16(args.fusion)),
                          options, stream);
}

}  // namespace fathom::kernels::cuda
