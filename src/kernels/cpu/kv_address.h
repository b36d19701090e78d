#pragma once

// Where a token's key and value lie in the paged cache.

#include <cstdint>

#include "kernels/op_args.h"

namespace fathom::kernels::cpu {

template <typename T>
struct KvRow {
  T* key;    // [head_dim]
  T* value;  // [head_dim]
};

// REQUIRES: the table row of `slot` names a block for `position`.
template <typename T>
KvRow<T> CacheRow(const KvCacheView& kv, int32_t slot, int32_t position, int32_t head) {
  const int64_t entry = static_cast<int64_t>(slot) * kv.max_blocks + position / kv.block_tokens;
  char* block = static_cast<char*>(kv.arena) + kv.block_tables[entry] * kv.block_bytes;
  const int64_t row =
      (static_cast<int64_t>(head) * kv.block_tokens + position % kv.block_tokens) * kv.head_dim;
  return {reinterpret_cast<T*>(block + kv.layer_offset) + row,
          reinterpret_cast<T*>(block + kv.value_offset) + row};
}

}  // namespace fathom::kernels::cpu
