#include "common/block_hash.h"

#include <gtest/gtest.h>

#include <numeric>

namespace fathom {
namespace {

constexpr SipKey kKey = {1, 2};

std::string Salt(char key, char rest) { return std::string(16, key) + std::string(16, rest); }

Hash128 Root(const std::string& salt, const std::string& model, const std::string& dtype,
             int32_t adapter) {
  return MakePrefixScope(salt, KvScope(model, dtype), adapter).root;
}

TEST(BlockHashTest, EverythingThatChangesKvChangesTheRoot) {
  const Hash128 root = Root(Salt('a', 'b'), "model", "BF16", kNoAdapter);
  EXPECT_EQ(root, Root(Salt('a', 'b'), "model", "BF16", kNoAdapter));
  EXPECT_NE(root, Root(Salt('x', 'b'), "model", "BF16", kNoAdapter));
  EXPECT_NE(root, Root(Salt('a', 'x'), "model", "BF16", kNoAdapter));
  EXPECT_NE(root, Root(Salt('a', 'b'), "other", "BF16", kNoAdapter));
  EXPECT_NE(root, Root(Salt('a', 'b'), "model", "F32", kNoAdapter));
  EXPECT_NE(root, Root(Salt('a', 'b'), "model", "BF16", 0));
}

TEST(BlockHashTest, TheSaltsFirstHalfIsTheKey) {
  const PrefixScope scope = MakePrefixScope(Salt('\1', 'b'), "scope", kNoAdapter);
  EXPECT_EQ(scope.key, (SipKey{0x0101010101010101, 0x0101010101010101}));
}

TEST(BlockHashTest, PartsDoNotRunIntoEachOther) {
  EXPECT_NE(KvScope("ab", "c"), KvScope("a", "bc"));
  EXPECT_EQ(KvScope("ab", "c").size(), 32u);
}

TEST(BlockHashTest, ABlockIsNamedByItsTokensAndAllBefore) {
  const Hash128 root{7, 8};
  const std::vector<TokenId> a = {1, 2, 3, 4};
  const std::vector<TokenId> b = {1, 2, 3, 5};
  const Hash128 first = HashBlock(kKey, root, a);
  EXPECT_NE(first, HashBlock(kKey, root, b));
  EXPECT_NE(first, HashBlock({1, 3}, root, a));
  EXPECT_NE(HashBlock(kKey, first, a), first);
  EXPECT_NE(HashBlock(kKey, first, a), HashBlock(kKey, HashBlock(kKey, root, b), a));
}

TEST(BlockHashTest, AChainMayBeExtendedInAnySteps) {
  const PrefixScope scope = MakePrefixScope(Salt('a', 'b'), "scope", kNoAdapter);
  std::vector<TokenId> tokens(35);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::vector<Hash128> whole;
  ExtendNames(scope, tokens, 8, 4, &whole);
  ASSERT_EQ(whole.size(), 4u);
  EXPECT_EQ(whole[0], HashBlock(scope.key, scope.root, std::span(tokens).first(8)));
  EXPECT_EQ(whole[3], HashBlock(scope.key, whole[2], std::span(tokens).subspan(24, 8)));
  std::vector<Hash128> steps;
  for (int32_t count = 0; count <= 4; ++count) ExtendNames(scope, tokens, 8, count, &steps);
  ExtendNames(scope, tokens, 8, 2, &steps);
  EXPECT_EQ(steps, whole);
}

TEST(BlockHashTest, LargeBlocksAreHashedWhole) {
  std::vector<TokenId> tokens(300);
  std::iota(tokens.begin(), tokens.end(), 0);
  const Hash128 whole = HashBlock(kKey, {}, tokens);
  tokens.back() = 0;
  EXPECT_NE(HashBlock(kKey, {}, tokens), whole);
}

}  // namespace
}  // namespace fathom
