#pragma once

// Tensors of random numbers, of whatever shape is asked for: a model without a checkpoint, to
// measure with. All tensors are views of one buffer as large as the largest of them, so that an
// 8B model needs no second copy of itself while it loads; what a backend packs is its own.
//
// Matrices and biases are normal with a small deviation, so that no value overflows on its way
// through many layers; the weights of norms are near zero for the same reason, which costs a
// benchmark nothing.

#include <cstdint>
#include <string>
#include <vector>

#include "worker/model/model_config.h"
#include "worker/model/tensor_source.h"

namespace fathom::worker {

class RandomWeights final : public TensorSource {
 public:
  // `dtype`: kF32 or kBF16. Of the vocabulary only the first `live_tokens` have weights that are
  // not zero, so that greedy decoding writes no other: a smaller tokenizer can read them.
  RandomWeights(const ModelConfig& config, DType dtype, uint64_t seed,
                int32_t live_tokens = INT32_MAX);

  // InvalidArgument for a tensor larger than any of this model's.
  absl::StatusOr<kernels::TensorView> Find(std::string_view tensor,
                                           std::span<const int64_t> shape) const override;
  const std::string& FileOf(std::string_view) const override { return name_; }

 private:
  const std::string name_ = "random weights";
  const DType dtype_;
  std::vector<char> bytes_;
  std::vector<char> vocabulary_;  // of embedding and head, where some tokens are not live
};

}  // namespace fathom::worker
