#pragma once

// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012; the reference's "128" mode): a
// keyed hash that strangers without the key cannot make collide. Thread safety: pure.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fathom {

struct Hash128 {
  uint64_t lo = 0;
  uint64_t hi = 0;
  bool operator==(const Hash128&) const = default;
};

using SipKey = std::array<uint64_t, 2>;  // little-endian halves of the 16 key bytes

Hash128 SipHash128(const SipKey& key, std::span<const std::byte> data);

}  // namespace fathom
