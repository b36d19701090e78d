#include "kernels/philox.h"

#include <gtest/gtest.h>

namespace fathom::kernels {
namespace {

void ExpectDraws(const Philox4x32& got, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  EXPECT_EQ(got.v[0], a);
  EXPECT_EQ(got.v[1], b);
  EXPECT_EQ(got.v[2], c);
  EXPECT_EQ(got.v[3], d);
}

// The vectors that Random123 publishes for philox4x32 with 10 rounds.
TEST(PhiloxTest, MatchesThePublishedVectors) {
  ExpectDraws(Philox({{0, 0, 0, 0}}, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  ExpectDraws(Philox({{~0U, ~0U, ~0U, ~0U}}, ~0U, ~0U), 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
              0x6d5451fd);
  ExpectDraws(Philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
              0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST(PhiloxTest, EveryPartOfTheKeyMatters) {
  const Philox4x32 base = SamplingDraws(1, 2, 3, 4);
  EXPECT_NE(SamplingDraws(1ULL << 32, 2, 3, 4).v[0], base.v[0]);
  EXPECT_NE(SamplingDraws(1, 0, 3, 4).v[0], base.v[0]);
  EXPECT_NE(SamplingDraws(1, 2, 0, 4).v[0], base.v[0]);
  EXPECT_NE(SamplingDraws(1, 2, 3, 0).v[0], base.v[0]);
}

}  // namespace
}  // namespace fathom::kernels
