#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

#include "benchmarks/gpu/ceilings.h"

namespace fathom::benchmarks {
namespace {

constexpr size_t kBytes = size_t{4} << 30;
constexpr int kSweeps = 9;
constexpr int kThreads = 512;
constexpr int kUnroll = 8;

__global__ void Fill(uint32_t* words, size_t count) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    words[i] = static_cast<uint32_t>(i * 2654435761U) ^ static_cast<uint32_t>(i >> 7);
  }
}

__global__ void __launch_bounds__(kThreads) Sum(const uint4* in, size_t count, uint32_t* out) {
  const size_t stride = static_cast<size_t>(gridDim.x) * kThreads;
  uint32_t sum = 0;
  size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
    uint4 v[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) v[k] = __ldcs(in + i + k * stride);
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  for (; i < count; i += stride) sum += in[i].x;
  if (sum == 0x12345678U) *out = sum;  // keeps the loads alive
}

cudaError_t Sweep(const void* data, uint32_t* out, int blocks, std::vector<float>* milliseconds) {
  cudaEvent_t begin;
  cudaEvent_t end;
  cudaError_t error = cudaEventCreate(&begin);
  if (error == cudaSuccess) error = cudaEventCreate(&end);
  for (int i = 0; i < kSweeps && error == cudaSuccess; ++i) {
    cudaEventRecord(begin);
    Sum<<<blocks, kThreads>>>(static_cast<const uint4*>(data), kBytes / sizeof(uint4), out);
    cudaEventRecord(end);
    error = cudaEventSynchronize(end);
    float took = 0;
    if (error == cudaSuccess) error = cudaEventElapsedTime(&took, begin, end);
    milliseconds->push_back(took);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return error;
}

}  // namespace

cudaError_t MeasureReadBandwidth(double* bytes_per_second) {
  int multiprocessors = 0;
  cudaError_t error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
  void* data = nullptr;
  if (error == cudaSuccess) error = cudaMalloc(&data, kBytes + sizeof(uint4));
  if (error != cudaSuccess) return error;
  Fill<<<multiprocessors * 8, kThreads>>>(static_cast<uint32_t*>(data), kBytes / 4);
  auto* out = reinterpret_cast<uint32_t*>(static_cast<char*>(data) + kBytes);
  *bytes_per_second = 0;
  for (const int per_multiprocessor : {2, 3, 4}) {
    std::vector<float> milliseconds;
    error = Sweep(data, out, multiprocessors * per_multiprocessor, &milliseconds);
    if (error != cudaSuccess) break;
    std::nth_element(milliseconds.begin(), milliseconds.begin() + kSweeps / 2, milliseconds.end());
    *bytes_per_second = std::max(*bytes_per_second, kBytes / (milliseconds[kSweeps / 2] * 1e-3));
  }
  cudaFree(data);
  return error;
}

}  // namespace fathom::benchmarks
