#pragma once

// Tensors of another source, with a count of their bytes, so that whoever waits for a large model
// sees it come. Thread safety: none.

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "common/status_macros.h"
#include "worker/model/tensor_source.h"

namespace fathom::worker {

class CountedSource final : public TensorSource {
 public:
  // Called with the bytes so far before a tensor is handed out; an error ends the reading. May be
  // empty.
  using Progress = std::function<absl::Status(int64_t done)>;

  explicit CountedSource(const TensorSource* source, Progress progress = {})
      : source_(source), progress_(std::move(progress)) {}

  absl::StatusOr<kernels::TensorView> Find(std::string_view tensor,
                                           std::span<const int64_t> shape) const override {
    if (progress_) RETURN_IF_ERROR(progress_(bytes_));
    ASSIGN_OR_RETURN(kernels::TensorView view, source_->Find(tensor, shape));
    bytes_ += static_cast<int64_t>(view.NumBytes());
    return view;
  }
  const std::string& FileOf(std::string_view tensor) const override {
    return source_->FileOf(tensor);
  }

  // Of all tensors that were asked for.
  int64_t bytes() const { return bytes_; }

 private:
  const TensorSource* const source_;
  const Progress progress_;
  mutable int64_t bytes_ = 0;
};

}  // namespace fathom::worker
