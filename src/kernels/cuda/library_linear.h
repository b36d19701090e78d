#pragma once

// cuBLASLt behind the same arguments, for many rows: FP32 sums, true FP32 products for F32 (no
// TF32). A shape's first call asks the library's heuristics and may allocate on the host; later
// calls of the same bucket of rows look its answer up. Legal in stream capture. Its kernels begin
// when everything ahead of them has ended. One thread at a time.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>

#include "kernels/cuda/linear.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cuda {

class LibraryLinear {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{64} << 20;

  LibraryLinear() = default;
  ~LibraryLinear();
  LibraryLinear(const LibraryLinear&) = delete;
  LibraryLinear& operator=(const LibraryLinear&) = delete;

  // `workspace`: kWorkspaceBytes of device memory aligned to 256, the caller's to keep; launches on
  // one stream share it.
  cublasStatus_t Init(void* workspace, size_t workspace_bytes);

  // x, W and out as LinearKernel::kLibrary says. The bias is added by the library's epilogue where
  // it has one for the types, else rounded to the output's type and put there first.
  cublasStatus_t Launch(const LinearArgs& args, const WeightView& weight, cudaStream_t stream);

  static const char* Describe(cublasStatus_t status) { return cublasLtGetStatusString(status); }

 private:
  struct Choice {
    cublasLtMatmulAlgo_t algo;
    bool bias_epilogue;
  };
  // rows (of the bucket), N, K, type, output type, bias
  using Key = std::tuple<int32_t, int32_t, int32_t, DType, DType, bool>;

  cublasStatus_t Choose(const LinearArgs& args, const WeightView& weight, int32_t rows,
                        Choice* out);
  cublasStatus_t Multiply(const LinearArgs& args, const WeightView& weight, const Choice& choice,
                          cudaStream_t stream);

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  std::map<Key, Choice> choices_;
};

// out[r, i] = bias[i], rounded.
cudaError_t LaunchBroadcastBias(const LinearArgs& args, int32_t n, cudaStream_t stream);

}  // namespace fathom::kernels::cuda
