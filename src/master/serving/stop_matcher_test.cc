#include "master/serving/stop_matcher.h"

#include <gtest/gtest.h>

#include "common/random.h"

namespace fathom::master {
namespace {

std::string Feed(StopMatcher& matcher, const std::vector<std::string>& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += matcher.Push(piece);
  return out;
}

TEST(StopMatcherTest, WithoutStopsEverythingPassesAtOnce) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("abc"), "abc");
  EXPECT_EQ(matcher.Flush(), "");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, AStopAcrossPiecesNeverShows) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("go S"), "go ");
  EXPECT_EQ(matcher.Push("T"), "");
  EXPECT_EQ(matcher.Push("OP more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.Push("later"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, WhatOnlyLookedLikeAStopComesOut) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("ST"), "");
  EXPECT_EQ(matcher.Push("ART"), "START");
  EXPECT_EQ(matcher.Push("STO"), "");
  EXPECT_EQ(matcher.Flush(), "STO");
}

TEST(StopMatcherTest, TheEarliestStopWins) {
  StopMatcher matcher({"later", "b"});
  EXPECT_EQ(matcher.Push("a b later"), "a ");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcherTest, APrefixThatRestartsInsideItselfIsFound) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(Feed(matcher, {"a", "a", "a", "b"}), "a");
  EXPECT_TRUE(matcher.stopped());
}

// However the text is cut, the result is the text before the first stop.
TEST(StopMatcherTest, CutsDoNotMatter) {
  SeededRandom random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 24; ++i) text += static_cast<char>('a' + random.Next() % 2);
    std::vector<std::string> stops;
    for (uint64_t i = 0; i <= random.Next() % 3; ++i) {
      stops.push_back(text.substr(random.Next() % 20, 1 + random.Next() % 6));
      if (random.Next() % 2 == 0) stops.back() += 'b';
    }
    size_t expected = std::string::npos;
    for (const std::string& stop : stops) expected = std::min(expected, text.find(stop));
    StopMatcher matcher(stops);
    std::string out;
    for (size_t at = 0; at < text.size() && !matcher.stopped();) {
      const size_t length = 1 + random.Next() % 4;
      out += matcher.Push(text.substr(at, length));
      at += length;
    }
    out += matcher.Flush();
    EXPECT_EQ(matcher.stopped(), expected != std::string::npos);
    // A later stop may complete earlier than one that begins before it; both are right to end it.
    if (!matcher.stopped()) {
      EXPECT_EQ(out, text);
    } else {
      EXPECT_TRUE(text.starts_with(out));
      for (const std::string& stop : stops) EXPECT_EQ(out.find(stop), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace fathom::master
