#pragma once

// The weights of a Llama-shaped decoder, named as its checkpoints name them. Optional pieces
// (biases, head norms) are empty where the family has none.

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/model_config.h"
#include "worker/model/weights.h"

namespace fathom::worker {

struct DecoderLayer {
  kernels::DeviceBuffer input_norm;                // [hidden]
  std::unique_ptr<kernels::PackedMatrix> qkv;      // [(heads + 2 kv_heads) * head_dim, hidden]
  kernels::DeviceBuffer qkv_bias;                  // [(heads + 2 kv_heads) * head_dim]
  kernels::DeviceBuffer q_norm;                    // [head_dim]
  kernels::DeviceBuffer k_norm;                    // [head_dim]
  std::unique_ptr<kernels::PackedMatrix> output;   // [hidden, heads * head_dim]
  kernels::DeviceBuffer output_bias;               // [hidden]
  kernels::DeviceBuffer post_norm;                 // [hidden]
  std::unique_ptr<kernels::PackedMatrix> gate_up;  // [2 * intermediate, hidden]
  kernels::DeviceBuffer gate_up_bias;              // [2 * intermediate]
  std::unique_ptr<kernels::PackedMatrix> down;     // [hidden, intermediate]
  kernels::DeviceBuffer down_bias;                 // [hidden]
};

struct DecoderWeights {
  EmbeddingTable embedding;                        // [vocab, hidden]
  std::vector<DecoderLayer> layers;                // [num_layers]
  kernels::DeviceBuffer final_norm;                // [hidden]
  std::unique_ptr<kernels::PackedMatrix> lm_head;  // [vocab, hidden]
  kernels::DeviceBuffer inv_freq;                  // [head_dim / 2]
};

absl::StatusOr<DecoderWeights> LoadDecoderWeights(const ModelConfig& config,
                                                  const TensorSource& source, DType compute_dtype,
                                                  kernels::Backend& backend);

}  // namespace fathom::worker
