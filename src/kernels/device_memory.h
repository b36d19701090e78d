#pragma once

// Move-only owner of device memory. The allocator outlives its buffers.

#include <cstddef>
#include <utility>

namespace fathom::kernels {

class MemoryAllocator {
 public:
  virtual ~MemoryAllocator() = default;
  virtual void Free(void* data, size_t bytes) = 0;
};

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(MemoryAllocator* owner, void* data, size_t bytes)
      : owner_(owner), data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(owner_, other.owner_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() {
    if (owner_ != nullptr) owner_->Free(data_, bytes_);
  }

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  MemoryAllocator* owner_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace fathom::kernels
