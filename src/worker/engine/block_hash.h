#pragma once

// Names of prefix blocks: a 128-bit keyed hash chain. Block i is named by its tokens and the name
// of block i - 1; the chain begins with everything else that changes KV (model, KV dtype, adapter,
// tenant salt). Thread safety: pure.

#include <cstdint>
#include <span>
#include <string_view>

#include "common/domain.h"
#include "common/siphash.h"

namespace fathom::worker {

Hash128 HashRoot(const SipKey& key, std::string_view model_digest, std::string_view kv_dtype,
                 int32_t adapter_id, std::string_view salt);

// The name of the block with these tokens after `parent`.
Hash128 HashBlock(const SipKey& key, const Hash128& parent, std::span<const TokenId> tokens);

}  // namespace fathom::worker
