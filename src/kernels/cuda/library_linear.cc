#include "kernels/cuda/library_linear.h"

#include <memory>
#include <type_traits>

namespace fathom::kernels::cuda {
namespace {

struct DeleteDescriptor {
  void operator()(cublasLtMatmulDesc_t d) const { cublasLtMatmulDescDestroy(d); }
  void operator()(cublasLtMatrixLayout_t d) const { cublasLtMatrixLayoutDestroy(d); }
  void operator()(cublasLtMatmulPreference_t d) const { cublasLtMatmulPreferenceDestroy(d); }
};
template <typename Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, DeleteDescriptor>;

bool ToLibrary(DType dtype, cudaDataType_t* out) {
  switch (dtype) {
    case DType::kF32:
      *out = CUDA_R_32F;
      return true;
    case DType::kBF16:
      *out = CUDA_R_16BF;
      return true;
    case DType::kF16:
      *out = CUDA_R_16F;
      return true;
    default:
      return false;
  }
}

// So that a server's thousands of row counts cost few questions: one bucket serves an eighth of its
// size below it.
int32_t Bucket(int32_t rows) {
  int32_t step = 8;
  while (step * 8 < rows) step *= 2;
  return (rows + step - 1) / step * step;
}

// Row-major out[rows, N] = x W^T is column-major out[N, rows] = W^T x, with W held as [K, N].
class Problem {
 public:
  cublasStatus_t Build(const LinearArgs& args, const WeightView& weight, int32_t rows,
                       bool bias_epilogue) {
    cudaDataType_t in;
    cudaDataType_t out;
    if (!ToLibrary(args.dtype, &in) || !ToLibrary(args.out_dtype, &out)) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
    cublasLtMatmulDesc_t desc = nullptr;
    cublasStatus_t status = cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    desc_.reset(desc);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    status = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                            sizeof(transposed));
    if (status == CUBLAS_STATUS_SUCCESS && bias_epilogue) status = AddBias(args);
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = MakeLayout(in, weight.cols, weight.rows, &weight_);
    }
    if (status == CUBLAS_STATUS_SUCCESS) status = MakeLayout(in, weight.cols, rows, &x_);
    if (status == CUBLAS_STATUS_SUCCESS) status = MakeLayout(out, weight.rows, rows, &out_);
    return status;
  }

  cublasLtMatmulDesc_t desc() const { return desc_.get(); }
  cublasLtMatrixLayout_t weight() const { return weight_.get(); }
  cublasLtMatrixLayout_t x() const { return x_.get(); }
  cublasLtMatrixLayout_t out() const { return out_.get(); }

 private:
  cublasStatus_t AddBias(const LinearArgs& args) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = CUDA_R_32F;
    cublasStatus_t status = cublasLtMatmulDescSetAttribute(desc(), CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                           &epilogue, sizeof(epilogue));
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(desc(), CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type,
                                              sizeof(type));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(desc(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias,
                                              sizeof(args.bias));
    }
    return status;
  }
  static cublasStatus_t MakeLayout(cudaDataType_t type, int32_t rows, int32_t cols,
                                   Owned<cublasLtMatrixLayout_t>* out) {
    cublasLtMatrixLayout_t layout = nullptr;
    const cublasStatus_t status = cublasLtMatrixLayoutCreate(&layout, type, rows, cols, rows);
    out->reset(layout);
    return status;
  }

  Owned<cublasLtMatmulDesc_t> desc_;
  Owned<cublasLtMatrixLayout_t> weight_;
  Owned<cublasLtMatrixLayout_t> x_;
  Owned<cublasLtMatrixLayout_t> out_;
};

}  // namespace

LibraryLinear::~LibraryLinear() {
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

cublasStatus_t LibraryLinear::Init(void* workspace, size_t workspace_bytes) {
  workspace_ = workspace;
  workspace_bytes_ = workspace_bytes;
  return handle_ == nullptr ? cublasLtCreate(&handle_) : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t LibraryLinear::Choose(const LinearArgs& args, const WeightView& weight, int32_t rows,
                                     Choice* out) {
  cublasLtMatmulPreference_t raw = nullptr;
  cublasStatus_t status = cublasLtMatmulPreferenceCreate(&raw);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Owned<cublasLtMatmulPreference_t> preference(raw);
  status = cublasLtMatmulPreferenceSetAttribute(raw, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &workspace_bytes_, sizeof(workspace_bytes_));
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const bool with_bias = args.bias != nullptr;
  for (const bool epilogue : {true, false}) {
    if (epilogue && !with_bias) continue;
    Problem problem;
    status = problem.Build(args, weight, rows, epilogue);
    if (status != CUBLAS_STATUS_SUCCESS) continue;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    status = cublasLtMatmulAlgoGetHeuristic(handle_, problem.desc(), problem.weight(), problem.x(),
                                            problem.out(), problem.out(), raw, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0) continue;
    *out = {result.algo, epilogue};
    return CUBLAS_STATUS_SUCCESS;
  }
  return status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : status;
}

cublasStatus_t LibraryLinear::Multiply(const LinearArgs& args, const WeightView& weight,
                                       const Choice& choice, cudaStream_t stream) {
  Problem problem;
  cublasStatus_t status = problem.Build(args, weight, args.rows, choice.bias_epilogue);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const bool bias_before = args.bias != nullptr && !choice.bias_epilogue;
  const float alpha = 1;
  const float beta = bias_before ? 1 : 0;
  if (bias_before && LaunchBroadcastBias(args, weight.rows, stream) != cudaSuccess) {
    return CUBLAS_STATUS_EXECUTION_FAILED;
  }
  return cublasLtMatmul(handle_, problem.desc(), &alpha, weight.data, problem.weight(), args.x,
                        problem.x(), &beta, args.out, problem.out(), args.out, problem.out(),
                        &choice.algo, workspace_, workspace_bytes_, stream);
}

cublasStatus_t LibraryLinear::Launch(const LinearArgs& args, const WeightView& weight,
                                     cudaStream_t stream) {
  if (handle_ == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (args.dtype != weight.dtype || args.rows < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const int32_t bucket = Bucket(args.rows);
  const Key key(bucket, weight.rows, weight.cols, args.dtype, args.out_dtype, args.bias != nullptr);
  auto found = choices_.find(key);
  if (found == choices_.end()) {
    Choice choice;
    const cublasStatus_t status = Choose(args, weight, bucket, &choice);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    found = choices_.emplace(key, choice).first;
  }
  const cublasStatus_t status = Multiply(args, weight, found->second, stream);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) {
    return status;
  }
  // An algorithm chosen for the bucket's largest count need not take every smaller one.
  Choice exact;
  const cublasStatus_t asked = Choose(args, weight, args.rows, &exact);
  return asked == CUBLAS_STATUS_SUCCESS ? Multiply(args, weight, exact, stream) : asked;
}

}  // namespace fathom::kernels::cuda
