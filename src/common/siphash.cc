#include "common/siphash.h"

#include <bit>
#include <cstring>

namespace fathom {
namespace {

struct State {
  uint64_t v0, v1, v2, v3;

  void Round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
  void Compress(uint64_t word) {
    v3 ^= word;
    Round();
    Round();
    v0 ^= word;
  }
  uint64_t Finish() {
    for (int i = 0; i < 4; ++i) Round();
    return v0 ^ v1 ^ v2 ^ v3;
  }
};

}  // namespace

Hash128 SipHash128(const SipKey& key, std::span<const std::byte> data) {
  static_assert(std::endian::native == std::endian::little);
  State s{0x736f6d6570736575ULL ^ key[0], 0x646f72616e646f6dULL ^ key[1] ^ 0xee,
          0x6c7967656e657261ULL ^ key[0], 0x7465646279746573ULL ^ key[1]};
  size_t at = 0;
  for (; at + 8 <= data.size(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data.data() + at, 8);
    s.Compress(word);
  }
  uint64_t last = static_cast<uint64_t>(data.size()) << 56;
  if (at < data.size()) {
    uint64_t rest = 0;
    std::memcpy(&rest, data.data() + at, data.size() - at);
    last |= rest;
  }
  s.Compress(last);
  s.v2 ^= 0xee;
  const uint64_t lo = s.Finish();
  s.v1 ^= 0xdd;
  return {lo, s.Finish()};
}

}  // namespace fathom
