#include "worker/engine/block_hash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace fathom::worker {
namespace {

constexpr SipKey kKey = {1, 2};

TEST(BlockHashTest, EverythingThatChangesKvChangesTheRoot) {
  const Hash128 root = HashRoot(kKey, "model", "BF16", -1, "salt");
  EXPECT_EQ(root, HashRoot(kKey, "model", "BF16", -1, "salt"));
  EXPECT_NE(root, HashRoot({1, 3}, "model", "BF16", -1, "salt"));
  EXPECT_NE(root, HashRoot(kKey, "other", "BF16", -1, "salt"));
  EXPECT_NE(root, HashRoot(kKey, "model", "F32", -1, "salt"));
  EXPECT_NE(root, HashRoot(kKey, "model", "BF16", 0, "salt"));
  EXPECT_NE(root, HashRoot(kKey, "model", "BF16", -1, "tlas"));
}

TEST(BlockHashTest, PartsDoNotRunIntoEachOther) {
  EXPECT_NE(HashRoot(kKey, "ab", "c", -1, ""), HashRoot(kKey, "a", "bc", -1, ""));
}

TEST(BlockHashTest, ABlockIsNamedByItsTokensAndAllBefore) {
  const Hash128 root = HashRoot(kKey, "model", "BF16", -1, "");
  const std::vector<TokenId> a = {1, 2, 3, 4};
  const std::vector<TokenId> b = {1, 2, 3, 5};
  const Hash128 first = HashBlock(kKey, root, a);
  EXPECT_NE(first, HashBlock(kKey, root, b));
  EXPECT_NE(HashBlock(kKey, first, a), first);
  EXPECT_NE(HashBlock(kKey, first, a), HashBlock(kKey, HashBlock(kKey, root, b), a));
}

TEST(BlockHashTest, LargeBlocksAreHashedWhole) {
  std::vector<TokenId> tokens(300);
  std::iota(tokens.begin(), tokens.end(), 0);
  const Hash128 whole = HashBlock(kKey, {}, tokens);
  tokens.back() = 0;
  EXPECT_NE(HashBlock(kKey, {}, tokens), whole);
}

}  // namespace
}  // namespace fathom::worker
