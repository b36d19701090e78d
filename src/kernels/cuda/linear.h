#pragma once

// out = x W^T + bias on the GPU. Few rows stream the weights through kernels of our own near the
// memory's rate; many rows go to cuBLASLt (library_linear.h). ChooseLinear decides, from a measured
// table alone. Everything here may be captured into a graph and allocates nothing.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/cuda/skinny_plan.h"
#include "kernels/cuda/wide_plan.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

// Row-major [rows, cols] in device memory, aligned to 256 bytes.
struct WeightView {
  const void* data = nullptr;
  int32_t rows = 0;  // N
  int32_t cols = 0;  // K
  DType dtype = DType::kBF16;
};

enum class LinearKernel : uint8_t {
  kPlain,    // any shape, any of F32, BF16 and F16: correct, slow
  kSkinny,   // 1..kSkinnyRowsMax rows; x and W of the same 16-bit type, K a multiple of 8
  kWide,     // 1..kWideRowsMax rows; the same, and N a multiple of 8
  kLibrary,  // cuBLASLt; x and W of the same type, F32 output or theirs
};

LinearKernel ChooseLinear(const LinearArgs& args, const WeightView& weight);

// The kernel for a product of BF16 that fuses what surrounds it; none where that does not pay.
std::optional<LinearKernel> FusedLinear(int32_t rows, int32_t n, int32_t k);

// Programmatic dependent launch. A launch marked so may begin before the kernels ahead of it in the
// stream have ended: it streams weights, which no kernel writes, and executes griddepcontrol.wait
// before it touches anything else. In turn it lets the kernel behind it begin early, if that one is
// marked too. So every kernel launched so must execute griddepcontrol.wait, before it reads what a
// predecessor wrote or writes what one may still read, and in any case before it ends: the one
// behind it waits for this one alone and relies on it for all that came before. It should also ask
// for the largest carve-out of shared memory, since a multiprocessor runs kernels that want
// different ones only one after the other. A kernel launched without the mark begins when
// everything ahead has ended and needs nothing.
struct LaunchOptions {
  bool programmatic = false;
  // A row's result does not depend on how many others there are: at the cost of what more rows
  // take.
  bool row_invariant = false;
  int32_t num_multiprocessors = 132;
};

cudaError_t LaunchPlainLinear(const LinearArgs& args, const WeightView& weight,
                              cudaStream_t stream);

// Takes args.fusion for up to kSkinnyFusedRowsMax rows. `workspace` holds partial sums where K is
// split, and is used until the launch has ended. Its first kSkinnyCounterBytes are zeroed once by
// its owner and left zeroed by every launch; what the rest holds does not matter. x is aligned to
// 16 bytes. The result depends on the arguments and num_multiprocessors alone: sums are taken in
// one fixed order.
constexpr size_t SkinnyWorkspaceBytes() {
  return kSkinnyCounterBytes + size_t{2} * kSkinnyBlocksMax * kSkinnyPartialBytesMax;
}
cudaError_t LaunchSkinnyLinear(const LinearArgs& args, const WeightView& weight, void* workspace,
                               size_t workspace_bytes, const LaunchOptions& options,
                               cudaStream_t stream);

// A product with a residual leaves each row's sum of squares in parts of 16 results.
constexpr int32_t SquareParts(int32_t n) { return (n + 15) / 16; }

// The same by a given plan, for measurements; cudaErrorInvalidValue where the plan does not fit.
cudaError_t LaunchSkinnyLinear(const LinearArgs& args, const WeightView& weight,
                               const SkinnyPlan& plan, void* workspace, size_t workspace_bytes,
                               const LaunchOptions& options, cudaStream_t stream);

// Takes args.fusion of BF16, N being a multiple of 16, and needs no workspace; x and W are aligned
// to 16 bytes. The result depends on the arguments and num_multiprocessors alone: sums are taken in
// one fixed order.
cudaError_t LaunchWideLinear(const LinearArgs& args, const WeightView& weight,
                             const LaunchOptions& options, cudaStream_t stream);

// The same by a given plan.
cudaError_t LaunchWideLinear(const LinearArgs& args, const WeightView& weight, const WidePlan& plan,
                             const LaunchOptions& options, cudaStream_t stream);

}  // namespace fathom::kernels::cuda
