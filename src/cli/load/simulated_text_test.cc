#include "cli/load/simulated_text.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace fathom::cli {
namespace {

std::string Answer(uint64_t history, int64_t length) {
  std::string text;
  for (int64_t i = 0; i < length; ++i) text += kSimulatedAlphabet[SimulatedLetter(history, i)];
  return text;
}

TEST(SimulatedTextTest, DependsOnEveryTokenOfThePrompt) {
  const std::vector<TokenId> prompt{5, 6, 7};
  std::set<uint64_t> seen{HistoryOf(prompt)};
  for (size_t i = 0; i < prompt.size(); ++i) {
    std::vector<TokenId> other = prompt;
    other[i] += 1;
    seen.insert(HistoryOf(other));
  }
  seen.insert(HistoryOf(std::vector<TokenId>{5, 6}));
  seen.insert(HistoryOf(std::vector<TokenId>{6, 5, 7}));
  EXPECT_EQ(seen.size(), 6);
}

TEST(SimulatedTextTest, AcceptsTheRightAnswerHoweverItIsCut) {
  const uint64_t history = HistoryOf(std::vector<TokenId>{1, 2, 3});
  const std::string text = Answer(history, 200);
  for (const auto known : {std::optional<uint64_t>(history), std::optional<uint64_t>()}) {
    SimulatedTextCheck check(known);
    EXPECT_TRUE(check.Push(text.substr(0, 1)).ok());
    EXPECT_TRUE(check.Push(text.substr(1, 70)).ok());
    EXPECT_TRUE(check.Push(text.substr(71)).ok());
    EXPECT_EQ(check.length(), 200);
  }
}

TEST(SimulatedTextTest, FindsWhatIsWrongMissingOrRepeatedAtEveryPlace) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const uint64_t history = ExtendHistory(seed, 9);
    const std::string text = Answer(history, 70);
    for (size_t at = 2; at + 1 < text.size(); ++at) {
      std::string missing = text;
      missing.erase(at, 1);
      std::string repeated = text;
      repeated.insert(at, 1, text[at - 1]);
      std::string wrong = text;
      wrong[at] = wrong[at] == 'a' ? 'b' : 'a';
      for (const std::string& bad : {missing, repeated, wrong}) {
        EXPECT_EQ(SimulatedTextCheck().Push(bad).code(), absl::StatusCode::kDataLoss);
        EXPECT_EQ(SimulatedTextCheck(history).Push(bad).code(), absl::StatusCode::kDataLoss);
      }
    }
  }
}

TEST(SimulatedTextTest, TellsTheAnswerToAnotherPrompt) {
  const uint64_t history = HistoryOf(std::vector<TokenId>{1, 2, 3});
  const std::string other = Answer(HistoryOf(std::vector<TokenId>{1, 2, 4}), 10);
  EXPECT_TRUE(SimulatedTextCheck().Push(other).ok());
  SimulatedTextCheck check(history);
  EXPECT_FALSE(check.Push(other).ok());
  EXPECT_FALSE(check.Push(Answer(history, 10)).ok());  // once wrong, always wrong
}

}  // namespace
}  // namespace fathom::cli
