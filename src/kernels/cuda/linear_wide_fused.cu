// The wide kernel for products that take along what surrounds them.

#include "kernels/cuda/wide_kernel.cuh"

namespace fathom::kernels::cuda {

WideKernelPointer FusedWideKernel(const WidePlan& plan) {
  return wide::KernelFor<__nv_bfloat16, true>(plan);
}

}  // namespace fathom::kernels::cuda
