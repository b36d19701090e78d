#include "worker/engine/block_hash.h"

#include <cstring>
#include <vector>

namespace fathom::worker {
namespace {

// Length first, so that no two lists of parts make the same bytes.
void Append(std::vector<std::byte>* out, const void* data, uint64_t size) {
  const auto add = [out](const void* from, size_t n) {
    const auto* bytes = static_cast<const std::byte*>(from);
    out->insert(out->end(), bytes, bytes + n);
  };
  add(&size, sizeof(size));
  add(data, size);
}

}  // namespace

Hash128 HashRoot(const SipKey& key, std::string_view model_digest, std::string_view kv_dtype,
                 int32_t adapter_id, std::string_view salt) {
  std::vector<std::byte> bytes;
  Append(&bytes, model_digest.data(), model_digest.size());
  Append(&bytes, kv_dtype.data(), kv_dtype.size());
  Append(&bytes, &adapter_id, sizeof(adapter_id));
  Append(&bytes, salt.data(), salt.size());
  return SipHash128(key, bytes);
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

}  // namespace fathom::worker
