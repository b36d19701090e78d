#pragma once

// The weights of a model folder: one model.safetensors, or the shards that
// model.safetensors.index.json lists. Thread safety: immutable after Open.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor_view.h"
#include "worker/model/safetensors.h"
#include "worker/model/tensor_source.h"

namespace fathom::worker {

class Checkpoint final : public TensorSource {
 public:
  static absl::StatusOr<Checkpoint> Open(const std::string& folder);

  // NotFound names the folder and the tensor.
  absl::StatusOr<kernels::TensorView> Find(std::string_view tensor) const;
  bool Has(std::string_view tensor) const { return tensors_.contains(tensor); }
  absl::StatusOr<kernels::TensorView> Find(std::string_view tensor,
                                           std::span<const int64_t>) const override {
    return Find(tensor);
  }
  // REQUIRES: Has(tensor).
  const std::string& FileOf(std::string_view tensor) const override;

 private:
  struct Entry {
    kernels::TensorView view;
    size_t file = 0;
  };
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status AddFile(const std::string& name);

  std::string folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace fathom::worker
