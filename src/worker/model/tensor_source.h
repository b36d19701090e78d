#pragma once

// Where a model's tensors come from: a checkpoint on disk, or random numbers of a wanted shape.
// Thread safety: const calls from any thread.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/tensor_view.h"

namespace fathom::worker {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // The view is valid as long as the source. Its shape is the source's own: the caller, who wants
  // `shape`, compares.
  virtual absl::StatusOr<kernels::TensorView> Find(std::string_view tensor,
                                                   std::span<const int64_t> shape) const = 0;
  // For errors. REQUIRES: Find(tensor) succeeded.
  virtual const std::string& FileOf(std::string_view tensor) const = 0;
};

}  // namespace fathom::worker
