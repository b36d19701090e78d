#include "kernels/cuda/attention_schedule.h"

#include <gtest/gtest.h>

#include <random>

namespace fathom::kernels::cuda {
namespace {

TEST(AttentionScheduleTest, WindowsEndAtTheQuery) {
  EXPECT_EQ(VisibleKeys(9, 0).first, 0);
  EXPECT_EQ(VisibleKeys(9, 10).first, 0);
  EXPECT_EQ(VisibleKeys(10, 10).first, 1);
  EXPECT_EQ(VisibleKeys(10, 1).first, 10);
  EXPECT_EQ(VisibleKeys(10, 1).last, 10);
}

TEST(AttentionScheduleTest, ChunksCountBothEnds) {
  EXPECT_EQ(DecodeChunks({.query_len = 1, .context_len = 0}, 0), 1);
  EXPECT_EQ(DecodeChunks({.query_len = 1, .context_len = 15}, 0), 1);
  EXPECT_EQ(DecodeChunks({.query_len = 1, .context_len = 16}, 0), 2);
  EXPECT_EQ(DecodeChunks({.query_len = 1, .context_len = 16}, 2), 2);
  EXPECT_EQ(DecodeChunks({.query_len = 1, .context_len = 1000}, 1), 1);
  EXPECT_EQ(DecodeChunks({.query_len = 2, .context_len = 100}, 0), 0);
  EXPECT_EQ(DecodeChunks({.query_len = 0, .context_len = 100}, 0), 0);
}

TEST(AttentionScheduleTest, WorkersShareEvenly) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const auto chunks = static_cast<int32_t>(1 + random() % (trial < 100 ? 2000 : 2'000'000'000));
    const auto max_workers = static_cast<int32_t>(1 + random() % 600);
    const DecodePartition partition(chunks, max_workers);
    ASSERT_GE(partition.workers, 1);
    ASSERT_LE(partition.workers, max_workers);
    ASSERT_EQ(partition.Begin(0), 0);
    ASSERT_EQ(partition.Begin(partition.workers), chunks);
    for (int32_t worker = 0; worker < partition.workers; ++worker) {
      const int32_t begin = partition.Begin(worker);
      const int32_t end = partition.Begin(worker + 1);
      ASSERT_GE(end - begin, chunks / partition.workers);
      ASSERT_LE(end - begin, chunks / partition.workers + 1);
      ASSERT_GT(end, begin);
      ASSERT_EQ(partition.Owner(begin), worker);
      ASSERT_EQ(partition.Owner(end - 1), worker);
    }
  }
}

TEST(AttentionScheduleTest, FewChunksTakeFewWorkers) {
  EXPECT_EQ(DecodePartition(1, 264).workers, 1);
  EXPECT_EQ(DecodePartition(8 * kMinChunksPerWorker, 264).workers, 8);
  EXPECT_EQ(DecodePartition(1'000'000, 264).workers, 264);
  EXPECT_EQ(DecodePartition(0, 264).workers, 0);
}

TEST(AttentionScheduleTest, TilesStayWithinTheGrid) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 200; ++trial) {
    const auto group = static_cast<int32_t>(1 + random() % 16);
    const int32_t tile_rows = trial % 2 == 0 ? 64 : 128;
    const auto num_sequences = static_cast<int32_t>(1 + random() % 40);
    int32_t tokens = 0;
    int32_t tiles = 0;
    for (int32_t i = 0; i < num_sequences; ++i) {
      const auto query_len = static_cast<int32_t>(random() % (trial % 3 == 0 ? 3 : 300));
      tokens += query_len;
      tiles += PrefillTiles({.query_len = query_len}, group, tile_rows);
    }
    ASSERT_LE(tiles, MaxPrefillTiles(tokens, num_sequences, group, tile_rows));
  }
}

}  // namespace
}  // namespace fathom::kernels::cuda
