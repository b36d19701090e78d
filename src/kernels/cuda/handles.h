#pragma once

// Owners of what CUDA hands out. Each closes what it holds; none may outlive the device's use.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_status.h"

namespace fathom::kernels::cuda {

template <typename T, auto kDestroy>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Handle() {
    if (value_ != nullptr) (void)kDestroy(value_);
  }

  T get() const { return value_; }

 private:
  T value_ = nullptr;
};

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using Graph = Handle<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Handle<cudaGraphExec_t, cudaGraphExecDestroy>;
using PinnedMemory = Handle<void*, cudaFreeHost>;

inline absl::StatusOr<Stream> CreateStream() {
  cudaStream_t stream = nullptr;
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

// For order alone; it measures nothing.
inline absl::StatusOr<Event> CreateEvent() {
  cudaEvent_t event = nullptr;
  RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return Event(event);
}

inline absl::StatusOr<PinnedMemory> AllocatePinnedMemory(size_t bytes) {
  void* data = nullptr;
  RETURN_IF_CUDA_ERROR(cudaMallocHost(&data, bytes));
  return PinnedMemory(data);
}

}  // namespace fathom::kernels::cuda
