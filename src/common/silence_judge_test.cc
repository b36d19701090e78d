#include "common/silence_judge.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

constexpr int64_t kMs = 1'000'000;

SilenceJudge Regular(int64_t gap_ms, int beats, int64_t* now) {
  SilenceJudge judge(absl::Milliseconds(250), absl::Seconds(1), *now);
  for (int i = 0; i < beats; ++i) judge.Beat(*now += gap_ms * kMs);
  return judge;
}

TEST(SilenceJudgeTest, ARegularPeerIsDeadJustAfterTheFloor) {
  int64_t now = 0;
  const SilenceJudge judge = Regular(250, 40, &now);
  EXPECT_EQ(judge.LimitNs(), 1000 * kMs);
  EXPECT_FALSE(judge.Silent(now + 1000 * kMs));
  EXPECT_TRUE(judge.Silent(now + 1001 * kMs));
}

TEST(SilenceJudgeTest, AnIrregularPeerGetsLonger) {
  int64_t now = 0;
  SilenceJudge judge = Regular(250, 4, &now);
  for (int i = 0; i < 20; ++i) judge.Beat(now += (i % 2 == 0 ? 50 : 900) * kMs);
  EXPECT_GT(judge.LimitNs(), 2000 * kMs);
}

TEST(SilenceJudgeTest, PatienceHasACeiling) {
  int64_t now = 0;
  const SilenceJudge judge = Regular(60000, 40, &now);
  EXPECT_EQ(judge.LimitNs(), 10'000 * kMs);
}

TEST(SilenceJudgeTest, AnySignOfLifeCountsButTeachesNoRhythm) {
  int64_t now = 0;
  SilenceJudge judge = Regular(250, 40, &now);
  judge.Heard(now + 900 * kMs);
  EXPECT_FALSE(judge.Silent(now + 1500 * kMs));
  EXPECT_EQ(judge.LimitNs(), 1000 * kMs);
}

TEST(SilenceJudgeTest, APeerIsHeldToWhatItSays) {
  int64_t now = 0;
  SilenceJudge judge(absl::Milliseconds(250), absl::Seconds(1), now);
  for (int i = 0; i < 10; ++i) judge.Beat(now += 1000 * kMs, 1000 * kMs);
  EXPECT_LT(judge.LimitNs(), 2200 * kMs);
  EXPECT_FALSE(judge.Silent(now + 1900 * kMs));
  EXPECT_TRUE(judge.Silent(now + 2300 * kMs));
  // From one heartbeat on it is judged as one that is busy, whenever that comes.
  judge.Beat(now += 100 * kMs, 250 * kMs);
  EXPECT_LT(judge.LimitNs(), 1200 * kMs);
  judge.Beat(now += 250 * kMs, 250 * kMs);
  EXPECT_EQ(judge.LimitNs(), 1000 * kMs);
}

TEST(SilenceJudgeTest, AnIdlePeerThatIsAskedHasNoLongerThanABusyOne) {
  int64_t now = 0;
  SilenceJudge judge(absl::Milliseconds(250), absl::Seconds(1), now);
  for (int i = 0; i < 10; ++i) judge.Beat(now += 4000 * kMs, 4000 * kMs);
  EXPECT_FALSE(judge.Silent(now + 3000 * kMs));
  judge.Asked(now + 500 * kMs);
  judge.Asked(now + 1200 * kMs);  // the first counts
  EXPECT_FALSE(judge.Silent(now + 1400 * kMs));
  EXPECT_TRUE(judge.Silent(now + 1600 * kMs));
  judge.Excuse(300 * kMs);
  EXPECT_FALSE(judge.Silent(now + 1600 * kMs));
  judge.Heard(now + 1700 * kMs);
  EXPECT_FALSE(judge.Silent(now + 4000 * kMs));
}

TEST(SilenceJudgeTest, TheJudgesOwnSleepIsExcused) {
  int64_t now = 0;
  SilenceJudge judge = Regular(250, 40, &now);
  now += 5000 * kMs;
  EXPECT_TRUE(judge.Silent(now));
  judge.Excuse(5000 * kMs);
  EXPECT_FALSE(judge.Silent(now));
}

}  // namespace
}  // namespace fathom
