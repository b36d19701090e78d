#pragma once

// For tests of kernels: device memory between guards, and values in a storage type. Tests skip
// where there is no GPU.

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/dtype.h"

namespace fathom::kernels::cuda {

inline constexpr size_t kGuardBytes = 256;
inline constexpr unsigned char kGuard = 0xA5;
// Every float type reads a NaN there: an output that nobody writes shows.
inline constexpr unsigned char kPoison = 0xFF;

inline bool HasDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

inline void ExpectCuda(cudaError_t error) {
  ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
}

// `bytes` of device memory, aligned to 256 bytes.
class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes, unsigned char fill = kPoison) : bytes_(bytes) {
    ExpectCuda(cudaMalloc(&base_, bytes + 2 * kGuardBytes));
    ExpectCuda(cudaMemset(base_, kGuard, bytes + 2 * kGuardBytes));
    ExpectCuda(cudaMemset(data(), fill, bytes));
  }
  template <typename T>
  explicit DeviceBytes(const std::vector<T>& host) : DeviceBytes(host.size() * sizeof(T)) {
    Assign(host);
  }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { cudaFree(base_); }

  void* data() const { return static_cast<char*>(base_) + kGuardBytes; }
  size_t size() const { return bytes_; }

  template <typename T>
  void Assign(const std::vector<T>& host) {
    ASSERT_EQ(host.size() * sizeof(T), bytes_);
    ExpectCuda(cudaMemcpy(data(), host.data(), bytes_, cudaMemcpyHostToDevice));
  }
  void Fill(unsigned char value) { ExpectCuda(cudaMemset(data(), value, bytes_)); }

  // Fails the test if anything was written around the data.
  std::vector<char> ToHost() const {
    std::vector<char> all(bytes_ + 2 * kGuardBytes);
    ExpectCuda(cudaDeviceSynchronize());
    ExpectCuda(cudaMemcpy(all.data(), base_, all.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < kGuardBytes; ++i) {
      EXPECT_EQ(static_cast<unsigned char>(all[i]), kGuard) << "wrote before the data";
      EXPECT_EQ(static_cast<unsigned char>(all[all.size() - 1 - i]), kGuard)
          << "wrote behind the data";
    }
    return {all.begin() + kGuardBytes, all.end() - kGuardBytes};
  }

 private:
  void* base_ = nullptr;
  size_t bytes_;
};

// `values` as `dtype` (F32, BF16 or F16) stores them.
inline std::vector<char> Stored(std::span<const float> values, DType dtype) {
  std::vector<char> out(values.size() * SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    char* at = out.data() + i * SizeOf(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(at, &values[i], sizeof(float));
    } else if (dtype == DType::kBF16) {
      const BFloat16 v = ToBFloat16(values[i]);
      std::memcpy(at, &v, sizeof(v));
    } else {
      const __half v = __float2half_rn(values[i]);
      std::memcpy(at, &v, sizeof(v));
    }
  }
  return out;
}

inline std::vector<float> Widened(std::span<const char> bytes, DType dtype) {
  std::vector<float> out(bytes.size() / SizeOf(dtype));
  for (size_t i = 0; i < out.size(); ++i) {
    const char* at = bytes.data() + i * SizeOf(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(&out[i], at, sizeof(float));
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, at, sizeof(bits));
    out[i] = dtype == DType::kBF16 ? ToFloat(BFloat16{bits}) : HalfToFloat(bits);
  }
  return out;
}

}  // namespace fathom::kernels::cuda
