#include "worker/model/random_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "kernels/bfloat16.h"

namespace fathom::worker {
namespace {

constexpr float kDeviation = 0.02F;
// Drawing normal numbers one by one would take longer than all the rest; a period that is no
// multiple of any row hides the repetition from everything that multiplies.
constexpr size_t kPeriod = 1'000'003;

int64_t LargestTensor(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = std::max(config.num_heads, config.num_kv_heads);
  return hidden *
         std::max<int64_t>({config.vocab_size, config.intermediate_size, heads * config.head_dim});
}

}  // namespace

RandomWeights::RandomWeights(const ModelConfig& config, DType dtype, uint64_t seed,
                             int32_t live_tokens)
    : dtype_(dtype), bytes_(static_cast<size_t>(LargestTensor(config)) * SizeOf(dtype)) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, kDeviation);
  const size_t drawn = std::min(bytes_.size(), kPeriod * SizeOf(dtype));
  for (size_t at = 0; at < drawn; at += SizeOf(dtype)) {
    const float value = normal(random);
    const BFloat16 half = ToBFloat16(value);
    std::memcpy(&bytes_[at], dtype == DType::kF32 ? static_cast<const void*>(&value) : &half,
                SizeOf(dtype));
  }
  for (size_t at = drawn; at < bytes_.size();) {
    const size_t some = std::min(at, bytes_.size() - at);
    std::memcpy(&bytes_[at], bytes_.data(), some);
    at += some;
  }
  if (live_tokens >= config.vocab_size) return;
  const size_t row = static_cast<size_t>(config.hidden_size) * SizeOf(dtype);
  vocabulary_.resize(row * config.vocab_size);
  std::memcpy(vocabulary_.data(), bytes_.data(), row * live_tokens);
}

absl::StatusOr<kernels::TensorView> RandomWeights::Find(std::string_view tensor,
                                                        std::span<const int64_t> shape) const {
  kernels::TensorView view;
  const bool is_vocabulary = tensor == "model.embed_tokens.weight" || tensor == "lm_head.weight";
  view.data = is_vocabulary && !vocabulary_.empty() ? vocabulary_.data() : bytes_.data();
  view.dtype = dtype_;
  if (shape.size() > std::size(view.shape)) {
    return absl::InvalidArgumentError(absl::StrCat(ToAbsl(tensor), ": too many dimensions"));
  }
  view.rank = static_cast<int32_t>(shape.size());
  std::ranges::copy(shape, std::begin(view.shape));
  if (view.NumBytes() > bytes_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(ToAbsl(tensor), ": larger than any tensor of this model"));
  }
  return view;
}

}  // namespace fathom::worker
