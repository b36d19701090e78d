#pragma once

// The names of a prompt's blocks, computed once for each way in which the fleet names them, at the
// first use. Thread safety: none.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/block_hash.h"

namespace fathom::master {

// Workers that agree on both give the same prefix the same names.
struct BlockNaming {
  std::string kv_scope;
  int32_t block_tokens = 0;
  bool operator==(const BlockNaming&) const = default;
};

class PromptBlocks {
 public:
  PromptBlocks() = default;
  // `tokens` outlives it. A salt that is none, or an empty prompt, has no blocks.
  PromptBlocks(std::span<const TokenId> tokens, std::string_view cache_salt)
      : tokens_(tokens), cache_salt_(cache_salt) {}

  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }

  // Of all full blocks.
  std::span<const Hash128> Names(const BlockNaming& naming) {
    for (const auto& [known, names] : names_) {
      if (known == naming) return names;
    }
    std::vector<Hash128> names;
    if (cache_salt_.size() == kCacheSaltBytes && naming.block_tokens > 0) {
      ExtendNames(MakePrefixScope(cache_salt_, naming.kv_scope, kNoAdapter), tokens_,
                  naming.block_tokens, num_tokens() / naming.block_tokens, &names);
    }
    return names_.emplace_back(naming, std::move(names)).second;
  }

 private:
  std::span<const TokenId> tokens_;
  std::string cache_salt_;
  std::vector<std::pair<BlockNaming, std::vector<Hash128>>> names_;  // a few
};

}  // namespace fathom::master
