#pragma once

// How much a step has to do, by arithmetic over the model's config: what a measured time is held
// against. Thread safety: pure functions.

#include <cstdint>
#include <vector>

#include "worker/model/model_config.h"

namespace fathom::worker {

// A matrix of weights [n, k].
struct MatrixShape {
  int64_t n = 0;
  int64_t k = 0;
};

// The products of one layer, in their order: qkv, output, gate and up, down.
std::vector<MatrixShape> LayerMatrices(const ModelConfig& config);

// Memory that a decode step has to read: every weight once, and the keys and values of `context`
// tokens (and its own) for each of `batch` sequences.
int64_t DecodeBytes(const ModelConfig& config, DType weights, DType kv, int64_t batch,
                    int64_t context);

// Multiplications and additions in the matrix products of a prompt whose last token alone needs
// logits; attention is not counted. The last layer computes its keys and values for all tokens and
// the rest for one.
int64_t PrefillFlop(const ModelConfig& config, int64_t prompt);

}  // namespace fathom::worker
