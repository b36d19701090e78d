#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "benchmarks/gpu/linear_workload.h"

namespace fathom::benchmarks {
namespace {

using kernels::LinearArgs;
using kernels::cuda::LibraryLinear;
using kernels::cuda::SkinnyPlan;
using kernels::cuda::SkinnyWorkspaceBytes;
using kernels::cuda::WeightView;

constexpr size_t kAlignment = 256;
constexpr int32_t kWidest = 152064;
constexpr int32_t kDeepest = 28672;
constexpr int32_t kHidden = 4096;
constexpr int32_t kSquarePitch = kHidden / 8;

void Check(cudaError_t error, int line) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "linear_workload.cu:%d: %s\n", line, cudaGetErrorString(error));
  std::exit(1);
}
void Check(cublasStatus_t status, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "linear_workload.cu:%d: %s\n", line, LibraryLinear::Describe(status));
  std::exit(1);
}
#define CHECK_CUDA(expression) Check((expression), __LINE__)

size_t RoundedBytes(int32_t n, int32_t k) {
  return (size_t{2} * n * k + kAlignment - 1) / kAlignment * kAlignment;
}

// Uniform in [-scale, scale); every element its own hash.
__global__ void FillKernel(__nv_bfloat16* out, size_t count, float scale, uint32_t seed) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761U ^ static_cast<uint32_t>(i >> 32) ^ seed;
    h = (h ^ (h >> 16)) * 0x85EBCA6BU;
    h = (h ^ (h >> 13)) * 0xC2B2AE35U;
    h ^= h >> 16;
    out[i] = __float2bfloat16_rn((static_cast<float>(h >> 8) / 0x1p23F - 1) * scale);
  }
}

constexpr int kReadThreads = 512;
constexpr int kReadUnroll = 8;

__global__ void __launch_bounds__(kReadThreads)
    ReadKernel(const uint4* data, size_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const size_t chunk = static_cast<size_t>(kReadThreads) * kReadUnroll;
  for (size_t begin = blockIdx.x * chunk; begin + chunk <= count; begin += gridDim.x * chunk) {
    uint4 v[kReadUnroll];
#pragma unroll
    for (int i = 0; i < kReadUnroll; ++i) {
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                   : "l"(data + begin + i * kReadThreads + threadIdx.x));
    }
#pragma unroll
    for (int i = 0; i < kReadUnroll; ++i) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  // Never true of random data in all threads, and the compiler cannot know.
  if (sum == 0x12345678U) *sink = sum;
}

__global__ void ErrorKernel(const __nv_bfloat16* got, const float* want, size_t count,
                            int* largest) {
  // Non-negative floats order as integers do, and NaN lies above them all.
  int difference = 0;
  int highest = 0;
  for (size_t i = threadIdx.x; i < count; i += blockDim.x) {
    difference = max(difference, __float_as_int(fabsf(__bfloat162float(got[i]) - want[i])));
    highest = max(highest, __float_as_int(fabsf(want[i])));
  }
  atomicMax(largest, difference);
  atomicMax(largest + 1, highest);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

std::vector<Shape> ShapesOf(const std::string& models) {
  const std::vector<Shape> all = {{"8b", "qkv", 6144, 4096},       {"8b", "o", 4096, 4096},
                                  {"8b", "gate_up", 28672, 4096},  {"8b", "down", 4096, 14336},
                                  {"8b", "lm_head", 128256, 4096}, {"7b", "qkv", 4608, 3584},
                                  {"7b", "o", 3584, 3584},         {"7b", "gate_up", 37888, 3584},
                                  {"7b", "down", 3584, 18944},     {"7b", "lm_head", 152064, 3584},
                                  {"70b", "qkv", 10240, 8192},     {"70b", "o", 8192, 8192},
                                  {"70b", "gate_up", 57344, 8192}, {"70b", "down", 8192, 28672}};
  std::vector<Shape> out;
  for (const Shape& shape : all) {
    if (models == "all" || models == shape.model) out.push_back(shape);
  }
  return out;
}

LinearWorkload::LinearWorkload(int32_t layers, const std::vector<Shape>& shapes) {
  int ordinal = 0;
  CHECK_CUDA(cudaGetDevice(&ordinal));
  cudaDeviceProp properties;
  CHECK_CUDA(cudaGetDeviceProperties(&properties, ordinal));
  num_multiprocessors_ = properties.multiProcessorCount;
  device_ = properties.name;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));

  const std::vector<Shape> model = ShapesOf("8b");
  std::vector<Shape> order;
  for (int32_t layer = 0; layer < layers; ++layer) {
    order.insert(order.end(), model.begin(), model.begin() + 4);
  }
  order.push_back(model.back());
  for (const Shape& shape : order) arena_bytes_ += RoundedBytes(shape.n, shape.k);
  // Twice, so that no launch finds its weights in L2.
  for (const Shape& shape : shapes) {
    arena_bytes_ = std::max(arena_bytes_, 2 * RoundedBytes(shape.n, shape.k));
  }
  CHECK_CUDA(cudaMalloc(&arena_, arena_bytes_));
  FillKernel<<<4096, 256, 0, stream_>>>(reinterpret_cast<__nv_bfloat16*>(arena_), arena_bytes_ / 2,
                                        0.02F, 1);
  size_t offset = 0;
  for (const Shape& shape : order) {
    // Scaled so that outputs are as large as inputs, however many layers there are.
    FillKernel<<<4096, 256, 0, stream_>>>(
        reinterpret_cast<__nv_bfloat16*>(arena_ + offset), size_t{1} * shape.n * shape.k,
        std::sqrt(3.0F / static_cast<float>(shape.k)), static_cast<uint32_t>(chain_.size()) + 2);
    chain_.push_back({arena_ + offset, shape.n, shape.k});
    offset += RoundedBytes(shape.n, shape.k);
    chain_bytes_ += shape.Bytes();
  }
  const size_t x_count = size_t{kMaxTokens} * kDeepest;
  CHECK_CUDA(cudaMalloc(&x_, x_count * 2));
  FillKernel<<<256, 256, 0, stream_>>>(reinterpret_cast<__nv_bfloat16*>(x_), x_count, 1.7F, 99);
  for (char*& buffer : buffers_) {
    CHECK_CUDA(cudaMalloc(&buffer, size_t{kMaxTokens} * kWidest * sizeof(float)));
  }
  // All zeros make a norm's weight, and squares whose epsilon of 1 leaves the rows as they are.
  CHECK_CUDA(cudaMalloc(&residual_, size_t{kMaxTokens} * kHidden * 2));
  CHECK_CUDA(cudaMemsetAsync(residual_, 0, size_t{kMaxTokens} * kHidden * 2, stream_));
  CHECK_CUDA(cudaMalloc(&norm_weight_, kHidden * sizeof(float)));
  CHECK_CUDA(cudaMemsetAsync(norm_weight_, 0, kHidden * sizeof(float), stream_));
  CHECK_CUDA(cudaMalloc(&squares_, size_t{kMaxTokens} * kSquarePitch * sizeof(float)));
  CHECK_CUDA(
      cudaMemsetAsync(squares_, 0, size_t{kMaxTokens} * kSquarePitch * sizeof(float), stream_));
  CHECK_CUDA(cudaMalloc(&workspace_, SkinnyWorkspaceBytes()));
  CHECK_CUDA(cudaMemsetAsync(workspace_, 0, SkinnyWorkspaceBytes(), stream_));
  CHECK_CUDA(cudaMalloc(&library_workspace_, LibraryLinear::kWorkspaceBytes));
  CHECK_CUDA(library_.Init(library_workspace_, LibraryLinear::kWorkspaceBytes));
  CHECK_CUDA(cudaStreamSynchronize(stream_));
}

LinearWorkload::~LinearWorkload() {
  for (void* pointer : {static_cast<void*>(arena_), static_cast<void*>(x_), workspace_,
                        library_workspace_, static_cast<void*>(buffers_[0]),
                        static_cast<void*>(buffers_[1]), static_cast<void*>(residual_),
                        static_cast<void*>(norm_weight_), static_cast<void*>(squares_)}) {
    cudaFree(pointer);
  }
  cudaStreamDestroy(stream_);
}

double LinearWorkload::ReadRate() {
  std::vector<double> seconds;
  cudaEvent_t begin;
  cudaEvent_t end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  for (int i = 0; i < 12; ++i) {
    CHECK_CUDA(cudaEventRecord(begin, stream_));
    ReadKernel<<<num_multiprocessors_ * 4, kReadThreads, 0, stream_>>>(
        reinterpret_cast<const uint4*>(arena_), arena_bytes_ / sizeof(uint4),
        reinterpret_cast<uint32_t*>(buffers_[0]));
    CHECK_CUDA(cudaGetLastError());
    CHECK_CUDA(cudaEventRecord(end, stream_));
    CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 2) seconds.push_back(milliseconds * 1e-3);
  }
  CHECK_CUDA(cudaEventDestroy(begin));
  CHECK_CUDA(cudaEventDestroy(end));
  return static_cast<double>(arena_bytes_) / Median(seconds) * 1e-9;
}

void LinearWorkload::Launch(const Matrix& matrix, const void* x, void* out, int32_t tokens,
                            Mode mode, const SkinnyPlan* plan,
                            const kernels::LinearFusion& fusion) {
  LinearArgs args;
  args.fusion = fusion;
  args.out = out;
  args.x = x;
  args.rows = tokens;
  args.dtype = DType::kBF16;
  args.out_dtype = DType::kBF16;
  const WeightView weight = {.data = matrix.data, .rows = matrix.n, .cols = matrix.k};
  const kernels::cuda::LaunchOptions options = {.programmatic = mode != Mode::kSerial,
                                                .num_multiprocessors = num_multiprocessors_};
  if (mode == Mode::kLibrary) {
    CHECK_CUDA(library_.Launch(args, weight, stream_));
  } else if (mode == Mode::kWide) {
    CHECK_CUDA(kernels::cuda::LaunchWideLinear(args, weight, options, stream_));
  } else if (plan != nullptr) {
    CHECK_CUDA(kernels::cuda::LaunchSkinnyLinear(args, weight, *plan, workspace_,
                                                 SkinnyWorkspaceBytes(), options, stream_));
  } else {
    CHECK_CUDA(kernels::cuda::LaunchSkinnyLinear(args, weight, workspace_, SkinnyWorkspaceBytes(),
                                                 options, stream_));
  }
}

double LinearWorkload::TimeGraph(const std::function<void()>& launches, int repeats) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  CHECK_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  launches();
  CHECK_CUDA(cudaStreamEndCapture(stream_, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<double> seconds;
  constexpr int kWarmUp = 1;
  for (int i = 0; i < kWarmUp + repeats; ++i) {
    CHECK_CUDA(cudaMemcpyAsync(buffers_[0], x_, size_t{kMaxTokens} * kDeepest * 2,
                               cudaMemcpyDeviceToDevice, stream_));
    // The first replay keeps the card busy while the host submits the timed one.
    CHECK_CUDA(cudaGraphLaunch(replay, stream_));
    CHECK_CUDA(cudaEventRecord(begin, stream_));
    CHECK_CUDA(cudaGraphLaunch(replay, stream_));
    CHECK_CUDA(cudaEventRecord(end, stream_));
    CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= kWarmUp) seconds.push_back(milliseconds * 1e-3);
  }
  CHECK_CUDA(cudaEventDestroy(begin));
  CHECK_CUDA(cudaEventDestroy(end));
  CHECK_CUDA(cudaGraphExecDestroy(replay));
  CHECK_CUDA(cudaGraphDestroy(graph));
  return Median(seconds);
}

kernels::LinearFusion LinearWorkload::FusionAt(size_t i, const ChainFusion& fusion) const {
  const size_t place = i % 4;  // qkv, o, gate_up, down; the head comes where a qkv would
  kernels::LinearFusion out;
  if (fusion.norm && place % 2 == 0) {
    const Matrix& before = chain_[place == 0 ? 3 : 1];
    out.square_sums = squares_;
    out.square_parts = kernels::cuda::SquareParts(before.n);
    out.norm_eps = 1;
    out.square_pitch = kSquarePitch;
  }
  out.gated = fusion.gated && place == 2;
  if (fusion.residual && place % 2 == 1) {
    out.residual = residual_;
    out.norm_weight = norm_weight_;
    out.residual_squares = squares_;
    out.square_pitch = kSquarePitch;
  }
  return out;
}

double LinearWorkload::TimeChain(int32_t tokens, Mode mode, const ChainFusion& fusion) {
  const auto launch = [&](size_t i) {
    Launch(chain_[i], buffers_[i % 2], buffers_[(i + 1) % 2], tokens, mode, nullptr,
           FusionAt(i, fusion));
  };
  // A kernel's first launch may load it, which a capture does not allow.
  for (const size_t i : {0, 1, 2, 3}) launch(i);
  launch(chain_.size() - 1);
  CHECK_CUDA(cudaStreamSynchronize(stream_));
  return TimeGraph(
      [&] {
        for (size_t i = 0; i < chain_.size(); ++i) launch(i);
      },
      15);
}

double LinearWorkload::TimeShape(const Shape& shape, int32_t tokens, Mode mode,
                                 const SkinnyPlan* plan, double bytes, int repeats) {
  const size_t stride = RoundedBytes(shape.n, shape.k);
  const size_t copies = arena_bytes_ / stride;
  const auto launches = static_cast<size_t>(std::max(8.0, std::ceil(bytes / shape.Bytes())));
  const auto launch = [&](size_t i) {
    Launch({arena_ + i % copies * stride, shape.n, shape.k}, x_, buffers_[1], tokens, mode, plan);
  };
  launch(0);
  CHECK_CUDA(cudaStreamSynchronize(stream_));
  const double seconds = TimeGraph(
      [&] {
        for (size_t i = 0; i < launches; ++i) launch(i);
      },
      repeats);
  return seconds / static_cast<double>(launches);
}

double LinearWorkload::Error(const Shape& shape, int32_t tokens, Mode mode) {
  CHECK_CUDA(cudaMemsetAsync(buffers_[1], 0xFF, size_t{2} * tokens * shape.n, stream_));
  Launch({arena_, shape.n, shape.k}, x_, buffers_[1], tokens, mode, nullptr);
  LinearArgs args;
  args.out = buffers_[0];
  args.x = x_;
  args.rows = tokens;
  args.dtype = DType::kBF16;
  args.out_dtype = DType::kF32;
  CHECK_CUDA(kernels::cuda::LaunchPlainLinear(
      args, {.data = arena_, .rows = shape.n, .cols = shape.k}, stream_));
  int* largest = nullptr;
  float host[2] = {};
  CHECK_CUDA(cudaMalloc(&largest, sizeof(host)));
  CHECK_CUDA(cudaMemsetAsync(largest, 0, sizeof(host), stream_));
  ErrorKernel<<<1, 1024, 0, stream_>>>(reinterpret_cast<const __nv_bfloat16*>(buffers_[1]),
                                       reinterpret_cast<const float*>(buffers_[0]),
                                       size_t{1} * tokens * shape.n, largest);
  CHECK_CUDA(cudaGetLastError());
  CHECK_CUDA(cudaMemcpyAsync(host, largest, sizeof(host), cudaMemcpyDeviceToHost, stream_));
  CHECK_CUDA(cudaStreamSynchronize(stream_));
  CHECK_CUDA(cudaFree(largest));
  return host[0] / host[1];
}

}  // namespace fathom::benchmarks
