#include "common/siphash.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom {
namespace {

// The published vectors: key 00 01 .. 0f, message 00 01 .. of the given length.
Hash128 OfLength(size_t length) {
  std::vector<std::byte> message(length);
  for (size_t i = 0; i < length; ++i) message[i] = static_cast<std::byte>(i);
  return SipHash128({0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL}, message);
}

TEST(SipHashTest, MatchesThePublishedVectors) {
  // a3817f04ba25a8e66df67214c7550293
  EXPECT_EQ(OfLength(0), (Hash128{0xe6a825ba047f81a3ULL, 0x930255c71472f66dULL}));
  // da87c1d86b99af44347659119b22fc45
  EXPECT_EQ(OfLength(1), (Hash128{0x44af996bd8c187daULL, 0x45fc229b11597634ULL}));
}

TEST(SipHashTest, DependsOnEveryByteAndOnTheKey) {
  std::vector<std::byte> message(24, std::byte{7});
  const Hash128 base = SipHash128({1, 2}, message);
  for (std::byte& b : message) {
    b ^= std::byte{0x80};
    EXPECT_NE(SipHash128({1, 2}, message), base);
    b ^= std::byte{0x80};
  }
  EXPECT_NE(SipHash128({1, 3}, message), base);
  EXPECT_NE(SipHash128({0, 2}, message), base);
}

}  // namespace
}  // namespace fathom
