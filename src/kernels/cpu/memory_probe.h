#pragma once

// How fast this machine reads memory: vector loads over a buffer far larger than any cache, which
// is what bounds a decode step. Thread safety: none.

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/thread_pool.h"

namespace fathom::kernels::cpu {

class MemoryProbe {
 public:
  // `threads` as in FastOptions. FailedPrecondition on a processor without AVX2 and FMA.
  static absl::StatusOr<std::unique_ptr<MemoryProbe>> Create(int32_t threads);

  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }
  int32_t num_threads() const { return pool_.num_threads(); }

  // Reads the buffer once; bytes a second.
  double AllThreads();
  // Reads a part of it on the calling thread.
  double OneThread();

 private:
  MemoryProbe(const KernelTable& kernels, int32_t threads) : kernels_(kernels), pool_(threads) {}

  const KernelTable& kernels_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;  // owns the buffer's memory
  DeviceBuffer buffer_;
};

}  // namespace fathom::kernels::cpu
