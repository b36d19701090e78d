#pragma once

// Pinned memory that copies to the device pass through: a caller's memory may change as soon as
// Copy returned. A few segments, filled in turn; one is used again when the device has read it.
// Several threads fill a segment, for one alone copies, and faults a file's pages in, at a fraction
// of the link's rate. Thread safety: none.

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/handles.h"
#include "kernels/thread_pool.h"

namespace fathom::kernels::cuda {

class StagingRing {
 public:
  static absl::StatusOr<StagingRing> Create(size_t segment_bytes, int num_segments);

  // In the order of `stream`; the same one in every call.
  absl::Status Copy(void* device, const void* host, size_t bytes, cudaStream_t stream);

 private:
  struct Segment {
    PinnedMemory memory;
    Event read;  // the device has read all that was put in
  };
  StagingRing(size_t segment_bytes, std::vector<Segment> segments);
  absl::Status NextSegment(cudaStream_t stream);
  void Fill(char* to, const char* from, size_t bytes);

  size_t segment_bytes_;
  std::vector<Segment> segments_;
  size_t current_ = 0;
  size_t used_ = 0;  // bytes of the current segment
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace fathom::kernels::cuda
