#pragma once

// Names of prefix blocks: a 128-bit keyed hash chain. Block i is named by its tokens and the name
// of block i - 1; the chain begins with everything else that changes KV (model, KV dtype, adapter)
// and with the tenant's secret, which also keys the hash: who does not know it can neither guess a
// name nor make two prefixes meet. Master and worker name blocks alike, so that a master knows what
// a worker holds. Thread safety: pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/domain.h"
#include "common/siphash.h"

namespace fathom {

// Bytes of a tenant's cache salt; the first 16 of them key the hash.
inline constexpr size_t kCacheSaltBytes = 32;
// Of requests without an adapter.
inline constexpr int32_t kNoAdapter = -1;

// Where a chain begins.
struct PrefixScope {
  SipKey key{};
  Hash128 root;
};

// What decides, besides tokens, adapter and tenant, which KV a block holds. Equal scopes mean equal
// names. 32 bytes.
std::string KvScope(std::string_view model_digest, std::string_view kv_dtype);

// `cache_salt` has kCacheSaltBytes bytes.
PrefixScope MakePrefixScope(std::string_view cache_salt, std::string_view kv_scope,
                            int32_t adapter_id);

// The name of the block with these tokens after `parent`.
Hash128 HashBlock(const SipKey& key, const Hash128& parent, std::span<const TokenId> tokens);

// Extends `names`, those of the first blocks of `tokens`, to `count` blocks.
void ExtendNames(const PrefixScope& scope, std::span<const TokenId> tokens, int32_t block_tokens,
                 int32_t count, std::vector<Hash128>* names);

}  // namespace fathom
