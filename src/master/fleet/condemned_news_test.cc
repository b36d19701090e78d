#include "master/fleet/condemned_news.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

std::string Name(int i) {
  std::string name = absl::StrCat(i);
  name.resize(32, '.');
  return name;
}

v1::Condemned Message(const std::string& name, int64_t remaining_ms) {
  v1::Condemned message;
  message.set_fingerprint(name);
  message.set_remaining_ms(remaining_ms);
  return message;
}

class CondemnedNewsTest : public testing::Test {
 protected:
  void Listen() {
    news_.OnNews([this](const std::string& name, absl::Duration remaining) {
      heard_.emplace_back(name, remaining);
    });
  }
  CondemnedNews news_{Clock::Real()};
  std::vector<std::pair<std::string, absl::Duration>> heard_;
};

TEST_F(CondemnedNewsTest, WhatIsNewIsPassedOnOnce) {
  Listen();
  const auto own = news_.Add(Name(1), absl::Minutes(1));
  ASSERT_TRUE(own);
  EXPECT_EQ(own->condemned().fingerprint(), Name(1));
  EXPECT_EQ(own->condemned().remaining_ms(), 60'000);
  EXPECT_TRUE(heard_.empty()) << "this master knows it";
  EXPECT_FALSE(news_.Add(Name(1), absl::Minutes(1)));
  EXPECT_FALSE(*news_.Hear(Message(Name(1), 59'000))) << "a worker has it from here";

  const auto others = news_.Hear(Message(Name(2), 30'000));
  ASSERT_TRUE(others.ok());
  ASSERT_TRUE(*others);
  EXPECT_EQ((*others)->condemned().remaining_ms(), 30'000);
  ASSERT_EQ(heard_.size(), 1u);
  EXPECT_EQ(heard_[0].first, Name(2));
  EXPECT_FALSE(*news_.Hear(Message(Name(2), 30'000)));
  EXPECT_EQ(heard_.size(), 1u);
  EXPECT_EQ(news_.All().size(), 2u);
}

TEST_F(CondemnedNewsTest, WhatCameBeforeAnybodyListenedIsToldThen) {
  ASSERT_TRUE(news_.Hear(Message(Name(1), 30'000)).ok());
  Listen();
  ASSERT_EQ(heard_.size(), 1u);
  EXPECT_LE(heard_[0].second, absl::Seconds(30));
}

TEST_F(CondemnedNewsTest, WhatCannotBeIsRefusedAndNothingHoldsLong) {
  Listen();
  EXPECT_FALSE(news_.Hear(Message("short", 1000)).ok());
  EXPECT_FALSE(news_.Hear(Message(Name(1) + "x", 1000)).ok());
  EXPECT_FALSE(news_.Hear(Message(Name(1), 0)).ok());
  EXPECT_FALSE(news_.Hear(Message(Name(1), -5)).ok());
  ASSERT_TRUE(news_.Hear(Message(Name(1), INT64_MAX)).ok());
  ASSERT_EQ(heard_.size(), 1u);
  EXPECT_EQ(heard_[0].second, absl::Minutes(10));
}

TEST_F(CondemnedNewsTest, WorkersCannotFillIt) {
  int kept = 0;
  for (int i = 0; i < 5000; ++i) kept += news_.Hear(Message(Name(i), 30'000))->has_value() ? 1 : 0;
  EXPECT_EQ(kept, 2048);
  EXPECT_TRUE(news_.Add(Name(6000), absl::Minutes(10)));
}

TEST_F(CondemnedNewsTest, LastWordsAreBoundedAndGoNoFurther) {
  std::vector<LastRun> heard;
  news_.OnLastWords([&](const std::vector<LastRun>& runs) { heard = runs; });
  v1::LastWords words;
  words.add_runs()->set_fingerprint(Name(1));
  words.mutable_runs(0)->set_crashes(INT32_MAX);
  ASSERT_TRUE(news_.Hear(words).ok());
  ASSERT_EQ(heard.size(), 1u);
  EXPECT_EQ(heard[0].fingerprint, Name(1));
  EXPECT_EQ(heard[0].crashes, 16);
  EXPECT_TRUE(news_.All().empty());

  words.mutable_runs(0)->set_crashes(-1);
  EXPECT_FALSE(news_.Hear(words).ok());
  words.mutable_runs(0)->set_crashes(0);
  words.mutable_runs(0)->set_fingerprint("short");
  EXPECT_FALSE(news_.Hear(words).ok());
  words.Clear();
  for (int i = 0; i < 1024; ++i) words.add_runs()->set_fingerprint(Name(i));
  EXPECT_TRUE(news_.Hear(words).ok());
  words.add_runs()->set_fingerprint(Name(1024));
  EXPECT_FALSE(news_.Hear(words).ok());
  words.mutable_runs()->RemoveLast();
  words.mutable_runs(0)->set_crashes(1);
  EXPECT_TRUE(news_.Hear(words).ok());
  words.mutable_runs(1)->set_crashes(1);
  EXPECT_FALSE(news_.Hear(words).ok()) << "one runs alone";
}

}  // namespace
}  // namespace fathom::master
