#pragma once

// What a device offers that works through its operations behind the caller's back: results that
// travel to the host without anybody waiting, marks to wait for, and sampling beside the logits.
//
// Thread safety: one owner, as for the backend; only Mark::Wait may be called by another thread.

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/sampling_args.h"

namespace fathom::kernels {

// A place in the order of operations.
class Mark {
 public:
  virtual ~Mark() = default;
  // Moves it behind everything launched so far.
  virtual absl::Status Record() = 0;
  // Until everything before it has ended; an error means that the device is lost.
  virtual absl::Status Wait() = 0;
};

// Host memory that the device reads and writes by itself.
class PinnedBuffer {
 public:
  virtual ~PinnedBuffer() = default;
  virtual void* data() const = 0;
};

class DeviceQueue {
 public:
  virtual ~DeviceQueue() = default;

  virtual absl::StatusOr<std::unique_ptr<PinnedBuffer>> AllocatePinned(size_t bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<Mark>> CreateMark() = 0;
  // kernels/sampling_args.h. What they read is device memory; what they write, but slot_tokens and
  // the counts, may lie in a pinned buffer, and is there once a mark behind it was waited for.
  virtual absl::Status SampleTokens(const SamplingArgs& args) = 0;
  virtual absl::Status ScoreTokens(const ScoringArgs& args) = 0;
};

}  // namespace fathom::kernels
