#include "worker/bench/work_count.h"

#include <algorithm>

namespace fathom::worker {

std::vector<MatrixShape> LayerMatrices(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  return {{q + 2 * kv, hidden},
          {hidden, q},
          {int64_t{2} * config.intermediate_size, hidden},
          {hidden, config.intermediate_size}};
}

int64_t DecodeBytes(const ModelConfig& config, DType weights, DType kv, int64_t batch,
                    int64_t context) {
  int64_t elements = int64_t{config.vocab_size} * config.hidden_size;
  for (const MatrixShape& matrix : LayerMatrices(config)) {
    elements += config.num_layers * matrix.n * matrix.k;
  }
  int64_t tokens = 0;  // of all layers
  for (const LayerType type : config.layer_types) {
    tokens += type == LayerType::kSlidingAttention
                  ? std::min<int64_t>(context + 1, config.sliding_window)
                  : context + 1;
  }
  const int64_t kv_elements = batch * tokens * 2 * config.num_kv_heads * config.head_dim;
  return elements * static_cast<int64_t>(SizeOf(weights)) +
         kv_elements * static_cast<int64_t>(SizeOf(kv));
}

int64_t PrefillFlop(const ModelConfig& config, int64_t prompt) {
  const std::vector<MatrixShape> matrices = LayerMatrices(config);
  int64_t products = int64_t{config.vocab_size} * config.hidden_size;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const int64_t in_last_layer = i == 0 ? prompt : 1;
    products += matrices[i].n * matrices[i].k * ((config.num_layers - 1) * prompt + in_last_layer);
  }
  return 2 * products;
}

}  // namespace fathom::worker
