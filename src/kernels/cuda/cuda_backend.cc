#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gpu_check.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/library_linear.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/staging_ring.h"

namespace fathom::kernels::cuda {
namespace {

constexpr size_t kSegmentBytes = size_t{16} << 20;
constexpr int kSegments = 4;

// Steps of one token a sequence are computed in these sizes, so that few graphs serve all; above
// the last one in multiples of kDecodeSizeStep.
constexpr std::array<int32_t, 19> kDecodeSizes = {1,  2,  4,  8,  12,  16,  20,  24,  32, 40,
                                                  48, 56, 64, 96, 128, 160, 192, 224, 256};
constexpr int32_t kDecodeSizeStep = 64;

absl::Status FromLibrary(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuBLASLt: ", LibraryLinear::Describe(status)));
}

class CudaMatrix final : public PackedMatrix {
 public:
  CudaMatrix(int32_t rows, int32_t cols, DType dtype, DeviceBuffer data)
      : PackedMatrix(rows, cols, dtype), data_(std::move(data)) {}
  WeightView view() const { return {data_.data(), rows(), cols(), dtype()}; }

 private:
  const DeviceBuffer data_;
};

class CudaMark final : public Mark {
 public:
  CudaMark(Event event, cudaStream_t stream) : event_(std::move(event)), stream_(stream) {}
  absl::Status Record() override {
    return ToStatus(cudaEventRecord(event_.get(), stream_), "recording a mark");
  }
  absl::Status Wait() override {
    return ToStatus(cudaEventSynchronize(event_.get()), "waiting for a step");
  }

 private:
  const Event event_;
  const cudaStream_t stream_;
};

absl::StatusOr<DeviceFacts> FactsOf(int32_t ordinal, const std::string& name, bool trim) {
  if (trim) {
    cudaMemPool_t pool = nullptr;
    RETURN_IF_CUDA_ERROR(cudaDeviceGetDefaultMemPool(&pool, ordinal));
    RETURN_IF_CUDA_ERROR(cudaMemPoolTrimTo(pool, 0));
  }
  ASSIGN_OR_RETURN(const DeviceMemory memory, QueryMemory(ordinal));
  std::array<char, 32> bus_id{};
  RETURN_IF_CUDA_ERROR(cudaDeviceGetPCIBusId(bus_id.data(), bus_id.size(), ordinal));
  DeviceFacts facts;
  facts.name = name;
  facts.pci_bus_id = bus_id.data();
  facts.total_bytes = memory.total_bytes;
  facts.free_bytes = memory.free_bytes;
  return facts;
}

class CudaPinned final : public PinnedBuffer {
 public:
  explicit CudaPinned(PinnedMemory memory) : memory_(std::move(memory)) {}
  void* data() const override { return memory_.get(); }

 private:
  const PinnedMemory memory_;
};

class CudaBackend final : public Backend, public DeviceQueue {
 public:
  CudaBackend(const CudaOptions& options, std::string gpu_name, int32_t num_multiprocessors,
              Stream stream, StagingRing staging)
      : options_(options),
        gpu_name_(std::move(gpu_name)),
        num_multiprocessors_(num_multiprocessors),
        stream_(std::move(stream)),
        staging_(std::move(staging)) {}
  // What is still running reads memory that is about to go.
  ~CudaBackend() override { (void)cudaStreamSynchronize(stream_.get()); }

  absl::Status Plan();

  const char* name() const override { return "cuda"; }
  bool batch_invariant() const override { return options_.batch_invariant; }
  absl::Status BindThread() override {
    return ToStatus(cudaSetDevice(options_.ordinal), "choosing the GPU");
  }
  DeviceQueue* queue() override { return this; }
  bool Stores(DType dtype) const override {
    return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
  }
  // Tensor cores multiply two of a kind.
  DType MatrixDType(DType compute, bool) const override { return compute; }
  int32_t PaddedRows(int32_t rows) const override {
    const auto* size = std::ranges::lower_bound(kDecodeSizes, rows);
    const int32_t padded = size != kDecodeSizes.end()
                               ? *size
                               : (rows + kDecodeSizeStep - 1) / kDecodeSizeStep * kDecodeSizeStep;
    return std::max(rows, std::min(padded, options_.max_rows));
  }
  // An unnormalised row may leave the range of F16.
  bool FusesLinear(int32_t rows, DType dtype, const PackedMatrix& weight) const override {
    if (options_.batch_invariant || dtype != DType::kBF16 || weight.dtype() != DType::kBF16) {
      return false;
    }
    return FusedLinear(rows, weight.rows(), weight.cols()).has_value();
  }
  int32_t SquareParts(const PackedMatrix& weight) const override {
    return cuda::SquareParts(weight.rows());
  }
  bool FusesRotary(const PagedAttentionArgs& args) const override {
    return !options_.batch_invariant && cuda::FusesRotary(args);
  }
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> record) override;
  absl::StatusOr<bool> Keep(uint64_t key, absl::FunctionRef<absl::Status()> record) override;

  absl::StatusOr<std::optional<DeviceFacts>> Facts() override;
  absl::StatusOr<DeviceBuffer> Allocate(size_t bytes) override;
  absl::Status CopyFromHost(void* device, const void* host, size_t bytes) override {
    // What a step uploads is small. As arguments of a launch it does without a copy engine, for
    // which the stream would stand still before and after.
    if (bytes <= kInlineCopyMax) {
      return ToStatus(LaunchInlineCopy(device, host, bytes, stream_.get()), "a small copy");
    }
    return staging_.Copy(device, host, bytes, stream_.get());
  }
  absl::Status CopyToHost(void* host, const void* device, size_t bytes) override;
  absl::Status Synchronize() override {
    return ToStatus(cudaStreamSynchronize(stream_.get()), "waiting for the device");
  }

  absl::StatusOr<std::unique_ptr<PinnedBuffer>> AllocatePinned(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<Mark>> CreateMark() override;
  absl::Status SampleTokens(const SamplingArgs& args) override {
    return ToStatus(LaunchSampleTokens(args, step_began_.as<uint64_t>(), sampling_workspace_.data(),
                                       sampling_workspace_.bytes(), stream_.get()),
                    "sampling");
  }
  absl::Status ScoreTokens(const ScoringArgs& args) override {
    return ToStatus(LaunchScoreTokens(args, sampling_workspace_.data(), sampling_workspace_.bytes(),
                                      stream_.get()),
                    "scoring");
  }

 private:
  void Free(void* data, size_t) override { (void)cudaFreeAsync(data, stream_.get()); }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> DoPackMatrix(std::span<const TensorView> parts,
                                                             int32_t rows, int32_t cols,
                                                             DType dtype) override;
  absl::Status DoEmbedding(const EmbeddingArgs& args) override {
    return ToStatus(LaunchEmbedding(args, step_began_.as<uint64_t>(), stream_.get()), "embedding");
  }
  absl::Status DoRmsNorm(const RmsNormArgs& args) override {
    return ToStatus(LaunchRmsNorm(args, stream_.get()), "RMS norm");
  }
  absl::Status DoRotaryTable(const RotaryTableArgs& args) override {
    return ToStatus(LaunchRotaryTable(args, stream_.get()), "rotary table");
  }
  absl::Status DoRotaryKvWrite(const RotaryKvWriteArgs& args) override {
    return ToStatus(LaunchRotaryKvWrite(args, stream_.get()), "rotary embedding");
  }
  absl::Status DoPagedAttention(const PagedAttentionArgs& args) override;
  absl::Status DoSiluMul(const SiluMulArgs& args) override {
    return ToStatus(LaunchSiluMul(args, stream_.get()), "SiLU");
  }
  absl::Status DoGatherRows(const GatherRowsArgs& args) override {
    return ToStatus(LaunchGatherRows(args, stream_.get()), "gathering rows");
  }
  absl::Status DoCast(const CastArgs& args) override {
    return ToStatus(
        LaunchConvert(args.out, args.dtype, args.x, DType::kF32, args.count, stream_.get()),
        "cast");
  }
  absl::Status DoCopyBlocks(const CopyBlocksArgs& args) override {
    return ToStatus(LaunchCopyBlocks(args, stream_.get()), "copying blocks");
  }
  absl::Status DoScatter(const ScatterArgs& args) override {
    return ToStatus(LaunchScatter(args, stream_.get()), "scattering");
  }
  absl::Status DoLinear(const LinearArgs& args, const PackedMatrix& weight) override;
  absl::Status LinearByFixedPlan(const LinearArgs& args, const WeightView& weight);

  const CudaOptions options_;
  const std::string gpu_name_;
  const int32_t num_multiprocessors_;
  const Stream stream_;  // before everything that frees in its order
  StagingRing staging_;
  LibraryLinear library_;
  DeviceBuffer attention_workspace_;
  DeviceBuffer skinny_workspace_;
  DeviceBuffer sampling_workspace_;
  DeviceBuffer library_workspace_;
  DeviceBuffer step_began_;  // [1] of the device's clock
  absl::flat_hash_map<uint64_t, GraphExec> graphs_;
  bool recording_ = false;
};

absl::Status CudaBackend::Plan() {
  ASSIGN_OR_RETURN(attention_workspace_, Allocate(AttentionWorkspaceBytes(num_multiprocessors_)));
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(attention_workspace_.data(), 0xFF,
                                       attention_workspace_.bytes(), stream_.get()));
  ASSIGN_OR_RETURN(skinny_workspace_, Allocate(SkinnyWorkspaceBytes()));
  ASSIGN_OR_RETURN(sampling_workspace_,
                   Allocate(SamplingWorkspaceBytes(options_.max_rows, options_.max_vocab)));
  ASSIGN_OR_RETURN(step_began_, Allocate(sizeof(uint64_t)));
  ASSIGN_OR_RETURN(library_workspace_, Allocate(LibraryLinear::kWorkspaceBytes));
  RETURN_IF_ERROR(
      FromLibrary(library_.Init(library_workspace_.data(), library_workspace_.bytes())));
  RETURN_IF_CUDA_ERROR(PrepareAttention());
  return absl::OkStatus();
}

absl::StatusOr<std::optional<DeviceFacts>> CudaBackend::Facts() {
  // What was freed in order is free now, for others too.
  RETURN_IF_ERROR(Synchronize());
  ASSIGN_OR_RETURN(DeviceFacts facts, FactsOf(options_.ordinal, gpu_name_, /*trim=*/true));
  for (const DeviceBuffer* workspace :
       {&attention_workspace_, &skinny_workspace_, &sampling_workspace_, &library_workspace_}) {
    facts.workspace_bytes += static_cast<int64_t>(workspace->bytes());
  }
  return facts;
}

absl::StatusOr<DeviceBuffer> CudaBackend::Allocate(size_t bytes) {
  if (bytes == 0) return DeviceBuffer();
  void* data = nullptr;
  const cudaError_t error = cudaMallocAsync(&data, bytes, stream_.get());
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    ASSIGN_OR_RETURN(const DeviceMemory memory, QueryMemory(options_.ordinal));
    return absl::ResourceExhaustedError(
        absl::StrCat("the GPU cannot give ", bytes >> 20, " MiB more: ", memory.free_bytes >> 20,
                     " of its ", memory.total_bytes >> 20, " MiB are free"));
  }
  RETURN_IF_CUDA_ERROR(error);
  DeviceBuffer buffer(this, data, bytes);
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(data, 0, bytes, stream_.get()));
  return buffer;
}

absl::Status CudaBackend::CopyToHost(void* host, const void* device, size_t bytes) {
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_.get()));
  return Synchronize();
}

absl::StatusOr<std::unique_ptr<PinnedBuffer>> CudaBackend::AllocatePinned(size_t bytes) {
  ASSIGN_OR_RETURN(PinnedMemory memory, AllocatePinnedMemory(bytes));
  return std::make_unique<CudaPinned>(std::move(memory));
}

absl::StatusOr<std::unique_ptr<Mark>> CudaBackend::CreateMark() {
  ASSIGN_OR_RETURN(Event event, CreateEvent());
  return std::make_unique<CudaMark>(std::move(event), stream_.get());
}

absl::StatusOr<bool> CudaBackend::Keep(uint64_t key, absl::FunctionRef<absl::Status()> record) {
  if (graphs_.contains(key)) return true;
  RETURN_IF_CUDA_ERROR(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
  recording_ = true;
  const absl::Status recorded = record();
  recording_ = false;
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &graph);
  const Graph owned(graph);
  RETURN_IF_ERROR(recorded);
  RETURN_IF_CUDA_ERROR(ended);
  cudaGraphExec_t exec = nullptr;
  RETURN_IF_CUDA_ERROR(cudaGraphInstantiate(&exec, graph, 0));
  graphs_.emplace(key, GraphExec(exec));
  return true;
}

absl::Status CudaBackend::Replay(uint64_t key, absl::FunctionRef<absl::Status()> record) {
  RETURN_IF_ERROR(Keep(key, record).status());
  return ToStatus(cudaGraphLaunch(graphs_.at(key).get(), stream_.get()), "replaying a step");
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> CudaBackend::DoPackMatrix(
    std::span<const TensorView> parts, int32_t rows, int32_t cols, DType dtype) {
  ASSIGN_OR_RETURN(DeviceBuffer data, Allocate(static_cast<size_t>(rows) * cols * SizeOf(dtype)));
  char* to = data.as<char>();
  for (const TensorView& part : parts) {
    if (part.dtype == dtype) {
      RETURN_IF_ERROR(CopyFromHost(to, part.data, part.NumBytes()));
    } else {
      ASSIGN_OR_RETURN(const DeviceBuffer stored, Allocate(part.NumBytes()));
      RETURN_IF_ERROR(CopyFromHost(stored.data(), part.data, part.NumBytes()));
      RETURN_IF_CUDA_ERROR(
          LaunchConvert(to, dtype, stored.data(), part.dtype, part.NumElements(), stream_.get()));
    }
    to += static_cast<size_t>(part.NumElements()) * SizeOf(dtype);
  }
  return std::make_unique<CudaMatrix>(rows, cols, dtype, std::move(data));
}

absl::Status CudaBackend::DoPagedAttention(const PagedAttentionArgs& args) {
  AttentionHints hints;
  hints.max_query_len = args.max_query_len > 0 ? args.max_query_len : args.num_tokens;
  hints.num_decodes = args.num_decodes;
  hints.num_multiprocessors = num_multiprocessors_;
  hints.batch_invariant = options_.batch_invariant;
  // A graph starts when all before it in the stream has ended.
  hints.settled = recording_;
  return ToStatus(LaunchPagedAttention(args, hints, attention_workspace_.data(),
                                       attention_workspace_.bytes(), stream_.get()),
                  "attention");
}

absl::Status CudaBackend::LinearByFixedPlan(const LinearArgs& args, const WeightView& weight) {
  LinearArgs few = args;
  few.rows = 1;
  const LinearKernel kernel = ChooseLinear(few, weight);
  if (kernel != LinearKernel::kSkinny && kernel != LinearKernel::kWide) {
    return ToStatus(LaunchPlainLinear(args, weight, stream_.get()), "product");
  }
  const LaunchOptions options = {
      .programmatic = true, .row_invariant = true, .num_multiprocessors = num_multiprocessors_};
  static_assert(kWideRowsMax == kSkinnyRowsMax);
  for (int32_t first = 0; first < args.rows; first += kWideRowsMax) {
    const auto before = static_cast<size_t>(first);
    LinearArgs part = args;
    part.rows = std::min(kWideRowsMax, args.rows - first);
    part.x = static_cast<const char*>(args.x) + before * weight.cols * SizeOf(args.dtype);
    part.out = static_cast<char*>(args.out) + before * weight.rows * SizeOf(args.out_dtype);
    const cudaError_t error =
        kernel == LinearKernel::kWide
            ? LaunchWideLinear(part, weight, options, stream_.get())
            : LaunchSkinnyLinear(part, weight, skinny_workspace_.data(), skinny_workspace_.bytes(),
                                 options, stream_.get());
    RETURN_IF_ERROR(ToStatus(error, "product by a fixed plan"));
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::DoLinear(const LinearArgs& args, const PackedMatrix& weight) {
  if (args.rows == 0) return absl::OkStatus();
  const WeightView view = static_cast<const CudaMatrix&>(weight).view();
  if (options_.batch_invariant) return LinearByFixedPlan(args, view);
  const LinearKernel kernel =
      args.fusion.empty()
          ? ChooseLinear(args, view)
          : FusedLinear(args.rows, view.rows, view.cols).value_or(LinearKernel::kSkinny);
  switch (kernel) {
    case LinearKernel::kSkinny:
      return ToStatus(
          LaunchSkinnyLinear(args, view, skinny_workspace_.data(), skinny_workspace_.bytes(),
                             {.programmatic = true, .num_multiprocessors = num_multiprocessors_},
                             stream_.get()),
          "skinny product");
    case LinearKernel::kWide:
      return ToStatus(
          LaunchWideLinear(args, view,
                           {.programmatic = true, .num_multiprocessors = num_multiprocessors_},
                           stream_.get()),
          "wide product");
    case LinearKernel::kLibrary:
      return FromLibrary(library_.Launch(args, view, stream_.get()));
    case LinearKernel::kPlain:
      break;
  }
  return ToStatus(LaunchPlainLinear(args, view, stream_.get()), "product");
}

}  // namespace

absl::StatusOr<DeviceMemory> QueryMemory(int32_t ordinal) {
  RETURN_IF_CUDA_ERROR(cudaSetDevice(ordinal));
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  RETURN_IF_CUDA_ERROR(cudaMemGetInfo(&free_bytes, &total_bytes));
  return DeviceMemory{static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

absl::StatusOr<DeviceFacts> DescribeGpu(int32_t ordinal, bool trim) {
  static const GpuSurvey survey = SurveyGpus();  // asked for often, and it stays what it is
  RETURN_IF_ERROR(CheckGpu(survey, ordinal));
  RETURN_IF_ERROR(ExplainGpuError(survey, ordinal, cudaSetDevice(ordinal)));
  return FactsOf(ordinal, survey.gpus[ordinal].name, trim);
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options) {
  const GpuSurvey survey = SurveyGpus();
  RETURN_IF_ERROR(CheckGpu(survey, options.ordinal));
  RETURN_IF_ERROR(ExplainGpuError(survey, options.ordinal, cudaSetDevice(options.ordinal)));
  int multiprocessors = 0;
  RETURN_IF_CUDA_ERROR(
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, options.ordinal));
  // Freed memory stays with the process: what was planned at start is there when it is needed.
  cudaMemPool_t pool = nullptr;
  uint64_t keep = UINT64_MAX;
  RETURN_IF_CUDA_ERROR(cudaDeviceGetDefaultMemPool(&pool, options.ordinal));
  RETURN_IF_CUDA_ERROR(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));

  ASSIGN_OR_RETURN(Stream stream, CreateStream());
  ASSIGN_OR_RETURN(StagingRing staging, StagingRing::Create(kSegmentBytes, kSegments));
  auto backend =
      std::make_unique<CudaBackend>(options, survey.gpus[options.ordinal].name, multiprocessors,
                                    std::move(stream), std::move(staging));
  RETURN_IF_ERROR(backend->Plan());
  return backend;
}

}  // namespace fathom::kernels::cuda
