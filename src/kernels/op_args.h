#pragma once

// Arguments of every device operation: plain structs, a shape at every pointer. All pointers are
// device memory. Dense row-major unless a stride is named. `dtype` is the type activations are
// stored in (F32, BF16 or, where the backend stores it, F16); arithmetic accumulates in FP32 and
// rounds when it stores. Plain enough for nvcc.

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

// The tokens of one sequence in this step. Its keys are at positions [0, context_len + query_len)
// of the cache; query i sits at position context_len + i.
struct SequenceSpan {
  int32_t slot = 0;  // row of the block tables
  int32_t first_token = 0;
  int32_t query_len = 0;
  int32_t context_len = 0;
};

// One layer of a paged cache. Inside a block, a layer holds
// K [num_kv_heads, block_tokens, head_dim] at layer_offset, then V of the same shape at
// value_offset.
struct KvCacheView {
  void* arena = nullptr;                  // [num_blocks, block_bytes]
  const int32_t* block_tables = nullptr;  // [slots, max_blocks]
  int64_t block_bytes = 0;
  int64_t layer_offset = 0;  // bytes from the start of a block
  int64_t value_offset = 0;  // bytes from the start of a block
  int32_t max_blocks = 0;    // a row of block_tables
  int32_t block_tokens = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
};

// out[i] = table[id(i)], id(i) being token_ids[i], or slot_tokens[token_slots[i]] if that is < 0.
struct EmbeddingArgs {
  void* out = nullptr;                   // [num_tokens, hidden] dtype
  const void* table = nullptr;           // [vocab, hidden] table_dtype
  const int32_t* token_ids = nullptr;    // [num_tokens]
  const int32_t* token_slots = nullptr;  // [num_tokens]
  const int32_t* slot_tokens = nullptr;  // [slots]
  int32_t num_tokens = 0;
  int32_t hidden = 0;
  int32_t vocab = 0;
  DType dtype = DType::kF32;
  DType table_dtype = DType::kF32;
};

// out = weight * round(x / sqrt(mean(x^2) + eps)); with a residual, residual += x comes first and
// the sum is normalised. `out` may be `x`.
struct RmsNormArgs {
  void* out = nullptr;            // [rows, dim] dtype
  const void* x = nullptr;        // [rows, dim] dtype
  void* residual = nullptr;       // [rows, dim] dtype, or null
  const float* weight = nullptr;  // [dim]
  int32_t rows = 0;
  int32_t dim = 0;
  float eps = 0;
  DType dtype = DType::kF32;
};

// cos_sin[i] = scale * {cos, sin}(positions[i] * inv_freq): computed once a step for all layers.
struct RotaryTableArgs {
  float* cos_sin = nullptr;            // [num_tokens, 2, half_dim]
  const int32_t* positions = nullptr;  // [num_tokens]
  const float* inv_freq = nullptr;     // [half_dim]
  int32_t num_tokens = 0;
  int32_t half_dim = 0;
  float scale = 1;
};

// Per head of q and k: RMS norm if its weight is given, then rotation of (i, i + head_dim / 2).
// q is written back in place, k and v go to the cache at kv_positions.
struct RotaryKvWriteArgs {
  void* qkv = nullptr;                    // [num_tokens, num_q_heads + 2 * num_kv_heads, head_dim]
  const float* cos_sin = nullptr;         // [num_tokens, 2, head_dim / 2]
  const float* q_norm_weight = nullptr;   // [head_dim], or null
  const float* k_norm_weight = nullptr;   // [head_dim], or null
  const int32_t* token_slots = nullptr;   // [num_tokens]
  const int32_t* kv_positions = nullptr;  // [num_tokens]
  KvCacheView kv;
  int32_t num_tokens = 0;
  int32_t num_q_heads = 0;
  float norm_eps = 0;
  DType dtype = DType::kF32;  // of qkv and of the cache
};

// What PagedAttention does besides where it is fused with RotaryKvWrite: the same to the heads of
// qkv, which stays as it is; keys and values go to position context_len of each sequence. None has
// more than one token; one without any writes nothing. Operations that are recorded with a fused
// one (Backend::Replay) write neither `sequences` nor tables nor what the layer had cached before.
struct FusedRotaryArgs {
  const float* cos_sin = nullptr;        // [num_tokens, 2, head_dim / 2]; null: not fused
  const float* q_norm_weight = nullptr;  // [head_dim], or null
  const float* k_norm_weight = nullptr;  // [head_dim], or null
  float norm_eps = 0;
};

// Causal attention of every query over the cache, its own step's tokens included. With a window a
// query sees that many positions, its own included. num_q_heads is a multiple of num_kv_heads.
struct PagedAttentionArgs {
  void* out = nullptr;        // [num_tokens, num_q_heads, head_dim] dtype
  const void* qkv = nullptr;  // [num_tokens, num_q_heads + 2 * num_kv_heads, head_dim]
  const SequenceSpan* sequences = nullptr;  // [num_sequences]
  KvCacheView kv;
  int32_t num_sequences = 0;
  int32_t num_tokens = 0;
  int32_t max_query_len = 0;  // the longest query_len; 0: not known
  int32_t num_decodes = -1;   // sequences with query_len 1; -1: not known
  int32_t num_q_heads = 0;
  int32_t window = 0;  // 0: none
  float scale = 1;
  FusedRotaryArgs rotary;  // for backends that say so (Backend::FusesRotary)
  DType dtype = DType::kF32;
};

// out = round(silu(gate)) * up
struct SiluMulArgs {
  void* out = nullptr;            // [rows, dim] dtype
  const void* gate_up = nullptr;  // [rows, 2, dim] dtype
  int32_t rows = 0;
  int32_t dim = 0;
  DType dtype = DType::kF32;
};

// out[i] = x[indices[i]]
struct GatherRowsArgs {
  void* out = nullptr;               // [rows, dim] dtype
  const void* x = nullptr;           // [*, dim] dtype
  const int32_t* indices = nullptr;  // [rows]
  int32_t rows = 0;
  int32_t dim = 0;
  DType dtype = DType::kF32;
};

// out = x, rounded to dtype.
struct CastArgs {
  void* out = nullptr;       // [count] dtype
  const float* x = nullptr;  // [count]
  int64_t count = 0;
  DType dtype = DType::kF32;
};

// arena[destinations[i]] = arena[sources[i]], in this order.
struct CopyBlocksArgs {
  void* arena = nullptr;                  // [num_blocks, block_bytes]
  const int32_t* sources = nullptr;       // [count]
  const int32_t* destinations = nullptr;  // [count]
  int64_t block_bytes = 0;
  int32_t count = 0;
};

// out[indices[i]] = values[i]; no index comes twice.
struct ScatterArgs {
  int32_t* out = nullptr;
  const int32_t* indices = nullptr;  // [count]
  const int32_t* values = nullptr;   // [count]
  int32_t count = 0;
};

// What a product of few rows does besides, where Backend::FusesLinear holds, to spare the small
// operations around it. Any of the three parts may be used; gating and a residual exclude each
// other. The default does nothing.
struct LinearFusion {
  // RMS norm of x. Its rows hold the norm's input times the norm's weight; what is left, the
  // division by sqrt(mean of squares + eps), happens to the product. The sum of squares of a row
  // comes in parts, left by the product that made it.
  const float* square_sums = nullptr;  // [rows, square_pitch], of which square_parts are read
  int32_t square_parts = 0;
  float norm_eps = 0;
  // SiLU: W stacks gate over up, and out [rows, N / 2] = round(silu(gate)) * up.
  bool gated = false;
  // residual += the product, and out = residual * norm_weight: what the next norm's product takes
  // as x, with the sums of squares of the new residual, in Backend::SquareParts parts a row.
  void* residual = nullptr;            // [rows, N] dtype
  const float* norm_weight = nullptr;  // [N]
  float* residual_squares = nullptr;   // [rows, square_pitch]
  int32_t square_pitch = 0;

  constexpr bool empty() const { return square_sums == nullptr && !gated && residual == nullptr; }
};

// out = x W^T + bias; W is a backend's own packed matrix of shape [N, K] (see PackedMatrix).
struct LinearArgs {
  void* out = nullptr;          // [rows, N] out_dtype
  const void* x = nullptr;      // [rows, K] dtype
  const float* bias = nullptr;  // [N], or null
  int32_t rows = 0;
  DType dtype = DType::kF32;
  DType out_dtype = DType::kF32;
  LinearFusion fusion;
};

}  // namespace fathom::kernels
