#pragma once

// The inner loops of the fast backend, compiled once for every instruction set. The files that
// define them are built with that set's flags, so they use nothing inline from elsewhere: a shared
// inline function compiled there could end up in code that runs on a lesser machine.
//
// Reduction order: every value that these functions compute depends on its own row alone, never on
// how many rows a call holds. Linear sums run over k in ascending order; attention runs over key
// tiles that start at multiples of kKeyTile.

#include <cstdint>

#include "kernels/cpu/cpu_features.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cpu {

// Columns of a packed panel. F32: [K, 64]; BF16: [K / 2, 64, 2].
inline constexpr int32_t kPanelCols = 64;
// Rows of a Linear that one task takes.
inline constexpr int32_t kRowBlock = 48;
inline constexpr int32_t kKeyTile = 64;
// Query rows (token x head of one KV head) that one attention task takes.
inline constexpr int32_t kQueryRows = 48;
inline constexpr int32_t kMostQueryRows = 96;  // on tiles
inline constexpr int32_t kRowTile = 16;        // rows of an AMX tile
// The widest head, which is what CheckArgs lets pass.
inline constexpr int32_t kWidestHead = 256;

// c = a * panel^T + bias, for one panel; gemm_bf16_tiles takes any number of rows, and panels that
// lie behind one another.
struct GemmTile {
  const void* a = nullptr;      // [rows, k], rows lda apart
  const void* panel = nullptr;  // k padded with zeros as in packed_panels.h
  void* c = nullptr;            // [rows, cols], rows ldc apart
  const float* bias = nullptr;  // [cols], or null
  int64_t lda = 0;
  int64_t ldc = 0;
  int32_t rows = 0;  // <= kRowBlock
  int32_t k = 0;
  int32_t cols = 0;  // <= kPanelCols
  bool c_is_bf16 = false;
  bool from_memory = false;  // the panel lies in memory, and what is needed next lies behind it
};

// Rows [first_row, first_row + num_rows) of one sequence and KV head, where row r is query token
// r / group under head r % group of that KV head.
struct AttentionTask {
  const PagedAttentionArgs* args = nullptr;
  SequenceSpan sequence;
  int32_t kv_head = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;  // <= KernelTable::query_rows
};

// What a thread keeps for attention. Rows begin at cache lines.
struct alignas(64) AttentionScratch {
  float keys[kKeyTile * kWidestHead];
  float values[kKeyTile * kWidestHead];
  float queries[kMostQueryRows * kWidestHead];
  float sums[kMostQueryRows * kWidestHead];
  float weights[kQueryRows * kKeyTile];  // scores before
  float pairs[kRowTile * kKeyTile / 2];  // weights in BF16, for tiles
  float highest[kMostQueryRows];
  float totals[kMostQueryRows];
  float decays[kQueryRows];
};

// Index 0: F32 storage, 1: BF16.
struct KernelTable {
  void (*gemm_f32)(const GemmTile&) = nullptr;         // rows and panel F32
  void (*gemm_bf16_dot)(const GemmTile&) = nullptr;    // rows and panel BF16; null: none
  void (*gemm_bf16_tiles)(const GemmTile&) = nullptr;  // rows and panels BF16; null: none
  void (*gemm_bf16_panel)(const GemmTile&) = nullptr;  // rows F32, panel BF16
  float (*read_stream)(const void* data, int64_t bytes) = nullptr;  // bytes: a multiple of 256
  void (*to_float)(float* out, const void* bf16, int64_t count) = nullptr;
  void (*rms_norm[2])(void* out, const void* x, void* residual, const float* weight, int32_t dim,
                      float eps) = {};
  // Normalises (if weight is not null) and rotates num_heads heads in place.
  void (*rotate_heads[2])(void* heads, int32_t num_heads, int32_t head_dim, const float* cos_sin,
                          const float* weight, float eps) = {};
  void (*silu_mul[2])(void* out, const void* gate, const void* up, int32_t dim) = {};
  void (*attend[2])(const AttentionTask&, AttentionScratch&) = {};
  int32_t query_rows[2] = {kQueryRows, kQueryRows};  // that an attention task takes
};

namespace avx2 {
extern const KernelTable kKernels;
}
namespace avx512 {
extern const KernelTable kKernels;
}
namespace avx512_bf16 {
extern const KernelTable kKernels;
}
namespace amx {
extern const KernelTable kKernels;
}

inline const KernelTable& KernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return avx2::kKernels;
    case Isa::kAvx512:
      return avx512::kKernels;
    case Isa::kAvx512Bf16:
      return avx512_bf16::kKernels;
    case Isa::kAmx:
      return amx::kKernels;
  }
  return avx2::kKernels;
}

}  // namespace fathom::kernels::cpu
