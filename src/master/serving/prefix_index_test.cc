#include "master/serving/prefix_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/random.h"

namespace fathom::master {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr int64_t kSecondNs = 1'000'000'000;

Hash128 Name(uint64_t i) {
  SeededRandom random(i);
  return {random.Next(), random.Next()};
}

std::vector<Hash128> Names(std::initializer_list<uint64_t> ids) {
  std::vector<Hash128> names;
  for (const uint64_t id : ids) names.push_back(Name(id));
  return names;
}

std::map<WorkerSlot, int32_t> MatchOf(const PrefixIndex& index, std::span<const Hash128> chain) {
  std::vector<PrefixMatch> matches;
  index.Match(chain, &matches);
  std::map<WorkerSlot, int32_t> lengths;
  for (const PrefixMatch& m : matches) {
    EXPECT_TRUE(lengths.emplace(m.worker, m.blocks).second) << "a worker comes twice";
  }
  return lengths;
}

TEST(PrefixIndexTest, KnowsTheLeadingRunOfEveryWorker) {
  PrefixIndex index;
  const auto chain = Names({1, 2, 3, 4});
  index.Store(0, Names({1, 2}));
  index.Store(7, Names({1, 2, 3, 4}));
  index.Store(9, Names({1, 3, 4}));
  index.Store(11, Names({2, 3, 4}));
  EXPECT_THAT(MatchOf(index, chain),
              UnorderedElementsAre(std::pair(0, 2), std::pair(7, 4), std::pair(9, 1)));
  EXPECT_THAT(MatchOf(index, Names({5, 1})), IsEmpty());
  EXPECT_THAT(MatchOf(index, {}), IsEmpty());
}

TEST(PrefixIndexTest, WhatWasSentIsExpectedUntilItsTimeIsOver) {
  PrefixIndex index({.expected_ns = 10 * kSecondNs});
  const auto chain = Names({1, 2, 3});
  index.Expect(4, chain, 0);
  EXPECT_THAT(MatchOf(index, chain), UnorderedElementsAre(std::pair(4, 3)));
  index.Store(4, Names({1}));
  index.Expect(5, Names({9}), 9 * kSecondNs);
  EXPECT_THAT(MatchOf(index, chain), UnorderedElementsAre(std::pair(4, 3)));
  index.Expect(5, Names({8}), 11 * kSecondNs);  // time passes with what is sent
  EXPECT_THAT(MatchOf(index, chain), UnorderedElementsAre(std::pair(4, 1)));
}

TEST(PrefixIndexTest, SendingAgainLetsItWaitForLonger) {
  PrefixIndex index({.expected_ns = 10 * kSecondNs});
  index.Expect(4, Names({1}), 0);
  index.Expect(4, Names({1}), 8 * kSecondNs);
  index.Expect(5, Names({2}), 12 * kSecondNs);
  EXPECT_EQ(MatchOf(index, Names({1})).size(), 1u);
  index.Expect(5, Names({3}), 19 * kSecondNs);
  EXPECT_THAT(MatchOf(index, Names({1})), IsEmpty());
}

TEST(PrefixIndexTest, AResyncForgetsWhatIsNotToldAgain) {
  PrefixIndex index;
  index.Store(1, Names({1, 2, 3}));
  index.Expect(1, Names({4}), 0);
  index.BeginResync(1);
  index.Store(1, Names({2}));
  index.Evict(1, Names({3}));
  index.EndResync(1);
  EXPECT_THAT(MatchOf(index, Names({1})), IsEmpty());
  EXPECT_THAT(MatchOf(index, Names({2})), UnorderedElementsAre(std::pair(1, 1)));
  EXPECT_THAT(MatchOf(index, Names({3})), IsEmpty());
  EXPECT_THAT(MatchOf(index, Names({4})), UnorderedElementsAre(std::pair(1, 1)));
}

TEST(PrefixIndexTest, AWorkersNumberIsCleanWhenUsedAgain) {
  PrefixIndex index;
  index.Store(1, Names({1, 2}));
  index.Store(2, Names({1}));
  index.Drop(1);
  EXPECT_THAT(MatchOf(index, Names({1, 2})), UnorderedElementsAre(std::pair(2, 1)));
  EXPECT_EQ(index.num_copies(), 1u);
  EXPECT_EQ(index.num_blocks(), 1u);
  index.Drop(2);
  EXPECT_EQ(index.num_blocks(), 0u);
}

TEST(PrefixIndexTest, LongChainsAreExactWhereNoBlockIsMissingInTheMiddle) {
  SeededRandom random(9);
  for (const size_t size : {255, 256, 257, 511, 513, 1000, 6251}) {
    PrefixIndex index;
    std::vector<Hash128> chain;
    for (size_t i = 0; i < size; ++i) chain.push_back(Name(1'000'000 + i));
    std::map<WorkerSlot, int32_t> held;
    for (WorkerSlot w = 0; w < 300; ++w) {
      const size_t length = w == 0 ? size : w == 1 ? size - 1 : 1 + random.Next() % size;
      index.Store(w, std::span(chain).first(length));
      held[w] = static_cast<int32_t>(length);
    }
    EXPECT_EQ(MatchOf(index, chain), held) << size;
  }
}

TEST(PrefixIndexTest, AHoleInALongChainIsFoundOrPassedOver) {
  std::vector<Hash128> chain;
  for (uint64_t i = 0; i < 2000; ++i) chain.push_back(Name(i));
  for (size_t hole = 1; hole < chain.size(); hole += 7) {
    PrefixIndex index({.max_copies = 5000});
    index.Store(3, chain);
    index.Evict(3, std::span(chain).subspan(hole, 1));
    const int32_t found = MatchOf(index, chain)[3];
    EXPECT_TRUE(found == static_cast<int32_t>(hole) || found == 2000) << hole << " " << found;
  }
}

TEST(PrefixIndexTest, WhatWasUsedLatelyStays) {
  PrefixIndex index({.max_copies = 64});
  const auto hot = Names({1000, 1001, 1002, 1003});
  for (uint64_t i = 0; i < 500; ++i) {
    index.Expect(1, hot, 0);
    index.Store(2, Names({i}));
    ASSERT_LE(index.num_copies(), 64u);
    ASSERT_EQ(MatchOf(index, hot)[1], 4) << i;
  }
}

TEST(PrefixIndexTest, OneWorkerDoesNotTakeAllTheRoom) {
  PrefixIndex index({.max_copies = 100, .max_copies_per_worker = 10});
  index.Store(1, Names({500}));
  for (uint64_t i = 0; i < 400; ++i) index.Store(2, Names({i}));
  EXPECT_EQ(index.num_copies_of(2), 10u);
  EXPECT_EQ(MatchOf(index, Names({500})).size(), 1u);
}

// Does the same in the plainest way.
class Oracle {
 public:
  struct Mark {
    bool known = false;
    int64_t until = 0;
    bool stale = false;
  };
  std::map<std::pair<uint64_t, WorkerSlot>, Mark> copies;

  std::map<WorkerSlot, int32_t> Match(const std::vector<uint64_t>& chain) const {
    std::map<WorkerSlot, int32_t> lengths;
    for (WorkerSlot w = 0; w < 400; ++w) {
      int32_t length = 0;
      while (length < static_cast<int32_t>(chain.size()) && copies.contains({chain[length], w})) {
        ++length;
      }
      if (length > 0) lengths[w] = length;
    }
    return lengths;
  }
};

class PrefixIndexPropertyTest : public testing::TestWithParam<int> {
 protected:
  uint64_t Below(uint64_t n) { return random_.Next() % n; }

  // Prefixes share heads as those of a tree do: a block belongs to one parent.
  std::vector<uint64_t> Chain() {
    std::vector<uint64_t> chain{Below(3)};
    const uint64_t length = 1 + Below(8);
    while (chain.size() < length) chain.push_back(10 + chain.back() * 3 + Below(3));
    return chain;
  }
  WorkerSlot Worker() { return static_cast<WorkerSlot>(Below(2) == 0 ? Below(6) : Below(400)); }

  SeededRandom random_{static_cast<uint64_t>(GetParam())};
};

TEST_P(PrefixIndexPropertyTest, AgreesWithThePlainestOne) {
  PrefixIndex index({.expected_ns = 100 * kSecondNs});
  Oracle oracle;
  int64_t now = 0;
  for (int step = 0; step < 6000; ++step) {
    const WorkerSlot worker = Worker();
    const std::vector<uint64_t> ids = Chain();
    std::vector<Hash128> chain;
    for (const uint64_t id : ids) chain.push_back(Name(id));
    const uint64_t what = Below(100);
    if (what < 40) {
      index.Store(worker, chain);
      for (const uint64_t id : ids) oracle.copies[{id, worker}] = {.known = true};
    } else if (what < 60) {
      now += kSecondNs;
      index.Expect(worker, chain, now);
      std::erase_if(oracle.copies, [now](const auto& c) {
        return !c.second.known && (c.second.until >> 27) < (now >> 27);
      });
      for (const uint64_t id : ids) {
        auto& mark = oracle.copies[{id, worker}];
        if (!mark.known) mark.until = now + 100 * kSecondNs;
      }
    } else if (what < 85) {
      const std::vector<Hash128> some(chain.begin() + Below(chain.size()), chain.end());
      index.Evict(worker, some);
      for (size_t i = chain.size() - some.size(); i < ids.size(); ++i) {
        oracle.copies.erase({ids[i], worker});
      }
    } else if (what < 90) {
      index.BeginResync(worker);
      for (auto& [copy, mark] : oracle.copies) {
        if (copy.second == worker && mark.known) mark.stale = true;
      }
      index.Store(worker, chain);
      for (const uint64_t id : ids) oracle.copies[{id, worker}] = {.known = true};
      index.EndResync(worker);
      std::erase_if(oracle.copies,
                    [&](const auto& c) { return c.first.second == worker && c.second.stale; });
    } else if (what < 92) {
      index.Drop(worker);
      std::erase_if(oracle.copies, [&](const auto& c) { return c.first.second == worker; });
    }
    const std::vector<uint64_t> asked = Chain();
    std::vector<Hash128> names;
    for (const uint64_t id : asked) names.push_back(Name(id));
    ASSERT_EQ(MatchOf(index, names), oracle.Match(asked)) << "step " << step;
    ASSERT_EQ(index.num_copies(), oracle.copies.size()) << "step " << step;
  }
  for (WorkerSlot w = 0; w < 400; ++w) index.Drop(w);
  EXPECT_EQ(index.num_copies(), 0u);
  EXPECT_EQ(index.num_blocks(), 0u);
}

TEST_P(PrefixIndexPropertyTest, WithLittleRoomItKnowsLessAndNothingWrong) {
  PrefixIndex index({.max_copies = 300, .max_copies_per_worker = 100});
  std::map<std::pair<uint64_t, WorkerSlot>, bool> told;
  for (int step = 0; step < 6000; ++step) {
    const WorkerSlot worker = Worker();
    const std::vector<uint64_t> ids = Chain();
    std::vector<Hash128> chain;
    for (const uint64_t id : ids) chain.push_back(Name(id));
    const bool store = Below(3) != 0;
    store ? index.Store(worker, chain) : index.Evict(worker, chain);
    for (const uint64_t id : ids) told[{id, worker}] = store;
    ASSERT_LE(index.num_copies(), 300u);
    ASSERT_LE(index.num_copies_of(worker), 100u);
    for (const auto& [slot, length] : MatchOf(index, chain)) {
      for (int32_t i = 0; i < length; ++i) {
        ASSERT_TRUE((told[{ids[static_cast<size_t>(i)], slot}])) << "step " << step;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, PrefixIndexPropertyTest, testing::Range(1, 4));

}  // namespace
}  // namespace fathom::master
