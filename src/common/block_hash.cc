#include "common/block_hash.h"

#include <cstring>

#include "common/check.h"
#include "common/digest.h"

namespace fathom {
namespace {

// Length first, so that no two lists of parts make the same bytes.
void Append(std::string* out, std::string_view part) {
  const uint64_t size = part.size();
  out->append(reinterpret_cast<const char*>(&size), sizeof(size));
  out->append(part);
}

}  // namespace

std::string KvScope(std::string_view model_digest, std::string_view kv_dtype) {
  std::string bytes = "fathom kv scope\n";
  Append(&bytes, model_digest);
  Append(&bytes, kv_dtype);
  return Sha256(bytes);
}

PrefixScope MakePrefixScope(std::string_view cache_salt, std::string_view kv_scope,
                            int32_t adapter_id) {
  FATHOM_CHECK(cache_salt.size() == kCacheSaltBytes, "a cache salt of another size");
  PrefixScope scope;
  std::memcpy(scope.key.data(), cache_salt.data(), sizeof(scope.key));
  std::string bytes;
  Append(&bytes, kv_scope);
  Append(&bytes, {reinterpret_cast<const char*>(&adapter_id), sizeof(adapter_id)});
  Append(&bytes, cache_salt.substr(sizeof(scope.key)));
  scope.root = SipHash128(scope.key, std::as_bytes(std::span(bytes)));
  return scope;
}

Hash128 HashBlock(const SipKey& key, const Hash128& parent, std::span<const TokenId> tokens) {
  constexpr size_t kStackTokens = 64;
  std::byte stack[sizeof(Hash128) + kStackTokens * sizeof(TokenId)];
  std::vector<std::byte> heap;
  const size_t size = sizeof(Hash128) + tokens.size_bytes();
  std::byte* bytes = stack;
  if (size > sizeof(stack)) {
    heap.resize(size);
    bytes = heap.data();
  }
  std::memcpy(bytes, &parent, sizeof(parent));
  std::memcpy(bytes + sizeof(parent), tokens.data(), tokens.size_bytes());
  return SipHash128(key, {bytes, size});
}

void ExtendNames(const PrefixScope& scope, std::span<const TokenId> tokens, int32_t block_tokens,
                 int32_t count, std::vector<Hash128>* names) {
  if (count > static_cast<int32_t>(names->size())) names->reserve(count);
  for (auto i = static_cast<int32_t>(names->size()); i < count; ++i) {
    const Hash128 parent = i == 0 ? scope.root : names->back();
    names->push_back(HashBlock(
        scope.key, parent, tokens.subspan(static_cast<size_t>(i) * block_tokens, block_tokens)));
  }
}

}  // namespace fathom
