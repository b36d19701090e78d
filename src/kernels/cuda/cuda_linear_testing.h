#pragma once

// For the tests of the linear kernels: tensors in device memory between guard bytes, random values
// as their type stores them, and a reference in double precision.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/tolerance.h"

namespace fathom::kernels::cuda {

inline bool HasGpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

#define ASSERT_CUDA(expression)                                           \
  do {                                                                    \
    const cudaError_t cuda_error = (expression);                          \
    ASSERT_EQ(cuda_error, cudaSuccess) << cudaGetErrorString(cuda_error); \
  } while (false)

inline std::vector<unsigned char> Encode(const std::vector<float>& values, DType dtype) {
  std::vector<unsigned char> bytes(values.size() * SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    unsigned char* at = bytes.data() + i * SizeOf(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(at, &values[i], sizeof(float));
    } else if (dtype == DType::kBF16) {
      const __nv_bfloat16 v = __float2bfloat16(values[i]);
      std::memcpy(at, &v, sizeof(v));
    } else {
      const __half v = __float2half(values[i]);
      std::memcpy(at, &v, sizeof(v));
    }
  }
  return bytes;
}

inline std::vector<float> Decode(const std::vector<unsigned char>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const unsigned char* at = bytes.data() + i * SizeOf(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(&values[i], at, sizeof(float));
    } else if (dtype == DType::kBF16) {
      __nv_bfloat16 v;
      std::memcpy(&v, at, sizeof(v));
      values[i] = __bfloat162float(v);
    } else {
      __half v;
      std::memcpy(&v, at, sizeof(v));
      values[i] = __half2float(v);
    }
  }
  return values;
}

// Device memory with guards on both sides; every byte of it starts as 0xFF, a NaN in all types.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes) : bytes_(bytes) {
    if (cudaMalloc(&base_, bytes + 2 * kGuardBytes) != cudaSuccess) {
      ADD_FAILURE() << "no device memory";
      base_ = nullptr;
      return;
    }
    cudaMemset(base_, 0xFF, bytes + 2 * kGuardBytes);
    // The memory set counts as work of the default stream, which the tests' stream ignores.
    cudaDeviceSynchronize();
  }
  explicit DeviceBuffer(const std::vector<unsigned char>& content) : DeviceBuffer(content.size()) {
    cudaMemcpy(data(), content.data(), content.size(), cudaMemcpyHostToDevice);
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(base_); }

  void* data() const { return static_cast<unsigned char*>(base_) + kGuardBytes; }
  size_t bytes() const { return bytes_; }
  void Poison() {
    cudaMemset(data(), 0xFF, bytes_);
    cudaDeviceSynchronize();
  }
  std::vector<unsigned char> Read() const { return ReadAt(kGuardBytes, bytes_); }
  void ExpectGuardsWhole() const {
    const std::vector<unsigned char> guard(kGuardBytes, 0xFF);
    EXPECT_EQ(ReadAt(0, kGuardBytes), guard) << "wrote before the output";
    EXPECT_EQ(ReadAt(kGuardBytes + bytes_, kGuardBytes), guard) << "wrote behind the output";
  }

 private:
  static constexpr size_t kGuardBytes = 1024;

  std::vector<unsigned char> ReadAt(size_t offset, size_t bytes) const {
    std::vector<unsigned char> out(bytes);
    cudaMemcpy(out.data(), static_cast<unsigned char*>(base_) + offset, bytes,
               cudaMemcpyDeviceToHost);
    return out;
  }

  void* base_ = nullptr;
  size_t bytes_;
};

struct LinearCase {
  int32_t rows = 1, n = 1, k = 1;
  DType x_dtype = DType::kBF16, w_dtype = DType::kBF16, out_dtype = DType::kBF16;
  bool bias = false;

  friend std::ostream& operator<<(std::ostream& os, const LinearCase& c) {
    return os << c.rows << " rows, " << c.n << " x " << c.k << ", " << Name(c.x_dtype) << " "
              << Name(c.w_dtype) << " -> " << Name(c.out_dtype) << (c.bias ? ", bias" : "");
  }
};

// One problem on the device with its answer.
class LinearProblem {
 public:
  LinearProblem(const LinearCase& c, uint32_t seed)
      : case_(c),
        random_(seed),
        x_host_(Random(static_cast<size_t>(c.rows) * c.k, c.x_dtype)),
        w_host_(Random(static_cast<size_t>(c.n) * c.k, c.w_dtype)),
        bias_host_(Random(c.n, DType::kF32)),
        x_(Encode(x_host_, c.x_dtype)),
        w_(Encode(w_host_, c.w_dtype)),
        bias_(Encode(bias_host_, DType::kF32)),
        out_(static_cast<size_t>(c.rows) * c.n * SizeOf(c.out_dtype)) {
    args_.out = out_.data();
    args_.x = x_.data();
    args_.bias = c.bias ? static_cast<const float*>(bias_.data()) : nullptr;
    args_.rows = c.rows;
    args_.dtype = c.x_dtype;
    args_.out_dtype = c.out_dtype;
    weight_ = {.data = w_.data(), .rows = c.n, .cols = c.k, .dtype = c.w_dtype};
  }

  const LinearArgs& args() const { return args_; }
  const WeightView& weight() const { return weight_; }
  DeviceBuffer& out() { return out_; }

  // Against sums in double; differences count in units of the sums' expected size.
  void ExpectCorrect() {
    out_.ExpectGuardsWhole();
    if (want_.empty()) ComputeWant();
    const std::vector<float> got = Decode(out_.Read(), case_.out_dtype);
    // The tensor cores cut what falls off in their FP32 sums, so those err more than rounded ones.
    const bool is_tensor_core = case_.x_dtype != DType::kF32;
    const double tolerance =
        case_.out_dtype == DType::kF32 && is_tensor_core ? 5e-5 : OpTolerance(case_.out_dtype);
    for (int32_t row = 0; row < case_.rows; ++row) {
      double difference = 0;
      double highest = std::sqrt(static_cast<double>(case_.k));
      for (int32_t i = 0; i < case_.n; ++i) {
        const double want = want_[static_cast<size_t>(row) * case_.n + i];
        const double value = got[static_cast<size_t>(row) * case_.n + i];
        ASSERT_FALSE(std::isnan(value)) << "row " << row << ", column " << i << " of " << case_;
        difference = std::max(difference, std::abs(value - want));
        highest = std::max(highest, std::abs(want));
      }
      ASSERT_LE(difference / highest, tolerance) << "row " << row << " of " << case_;
    }
  }

 private:
  std::vector<float> Random(size_t count, DType dtype) {
    // Uniform, of variance 1, and quick to draw.
    constexpr float kSpan = 3.4641016F;
    std::vector<float> values(count);
    for (float& v : values) v = (static_cast<float>(random_() >> 8) / 0x1p24F - 0.5F) * kSpan;
    return Decode(Encode(values, dtype), dtype);
  }
  void ComputeWant() {
    want_.reserve(static_cast<size_t>(case_.rows) * case_.n);
    for (int32_t row = 0; row < case_.rows; ++row) {
      for (int32_t i = 0; i < case_.n; ++i) {
        const float* x = x_host_.data() + static_cast<size_t>(row) * case_.k;
        const float* w = w_host_.data() + static_cast<size_t>(i) * case_.k;
        double sums[4] = {case_.bias ? bias_host_[i] : 0.0, 0, 0, 0};
        for (int32_t j = 0; j < case_.k; ++j) sums[j % 4] += static_cast<double>(x[j]) * w[j];
        want_.push_back(sums[0] + sums[1] + sums[2] + sums[3]);
      }
    }
  }

  LinearCase case_;
  std::mt19937 random_;
  std::vector<float> x_host_, w_host_, bias_host_;
  DeviceBuffer x_, w_, bias_, out_;
  std::vector<double> want_;
  LinearArgs args_;
  WeightView weight_;
};

// A stream and a clean workspace. Skips without a GPU.
class LinearTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
    ASSERT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    workspace_ = std::make_unique<DeviceBuffer>(SkinnyWorkspaceBytes());
    ASSERT_CUDA(cudaMemset(workspace_->data(), 0, kSkinnyCounterBytes));
    ASSERT_CUDA(cudaDeviceSynchronize());
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  // `launch` gives a right answer, and the same bits each time.
  template <typename Launch>
  void ExpectRightAndStable(LinearProblem& problem, const Launch& launch) {
    ASSERT_NO_FATAL_FAILURE(launch());
    ASSERT_CUDA(cudaStreamSynchronize(stream_));
    ASSERT_NO_FATAL_FAILURE(problem.ExpectCorrect());
    const std::vector<unsigned char> first = problem.out().Read();
    for (int i = 0; i < 2; ++i) {
      problem.out().Poison();
      ASSERT_NO_FATAL_FAILURE(launch());
      ASSERT_CUDA(cudaStreamSynchronize(stream_));
      ASSERT_EQ(problem.out().Read(), first) << "launch " << i + 2 << " differs";
    }
  }

  cudaStream_t stream_ = nullptr;
  std::unique_ptr<DeviceBuffer> workspace_;
};

}  // namespace fathom::kernels::cuda
