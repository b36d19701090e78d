#include "common/logging.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <csignal>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/check.h"

namespace fathom {
namespace {

TEST(LoggingTest, JsonLineCarriesEcsNamesAndEscapesText) {
  const LogOptions options{.level = "info", .json = true, .service = "fathom-worker", .node = "w1"};
  const std::string line =
      FormatLogLine(options, LogLevel::kWarn, "link", "bad \"name\"\n\x01",
                    {{"event.duration", int64_t{5}}, {"labels.ok", true}, {"a", std::string("b")}},
                    1700000000123456);
  const boost::json::object fields = boost::json::parse(line).as_object();
  EXPECT_EQ(fields.at("@timestamp").as_string(), "2023-11-14T22:13:20.123Z");
  EXPECT_EQ(fields.at("log.level").as_string(), "warn");
  EXPECT_EQ(fields.at("log.logger").as_string(), "link");
  EXPECT_EQ(fields.at("service.name").as_string(), "fathom-worker");
  EXPECT_EQ(fields.at("service.node.name").as_string(), "w1");
  EXPECT_EQ(fields.at("message").as_string(), "bad \"name\"\n\x01");
  EXPECT_EQ(fields.at("event.duration").as_int64(), 5);
  EXPECT_TRUE(fields.at("labels.ok").as_bool());
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

// A process of its own whose log is a pipe that is full and that nobody reads.
void StandStill() {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
  while (write(ends[1], "....", 4) > 0) {
  }
  ASSERT_EQ(fcntl(ends[1], F_SETFL, 0), 0);
  ASSERT_EQ(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
}

void SayMuch() {
  ASSERT_TRUE(InitLogging({.json = false}).ok());
  for (int i = 0; i < 1000; ++i) LogInfo("test", absl::StrCat("line ", i));
}

TEST(LoggingDeathTest, WhatWasSaidIsWrittenBeforeTheProcessExits) {
  EXPECT_EXIT((SayMuch(), std::exit(3)), ::testing::ExitedWithCode(3), "line 0(.|\n)*line 999\n$");
}

TEST(LoggingDeathTest, AFailedCheckIsTheLastLineOfTheLog) {
  EXPECT_DEATH(
      {
        SayMuch();
        FATHOM_CHECK(1 + 1 == 3, "sums are off");
      },
      "line 999\n.* error check: CHECK failed: 1 . 1 == 3 \\(sums are off\\)");
}

TEST(LoggingDeathTest, NoEndWaitsLongForAReaderThatStandsStill) {
  const absl::Time start = absl::Now();
  EXPECT_EXIT((StandStill(), SayMuch(), std::exit(3)), ::testing::ExitedWithCode(3), "");
  EXPECT_EXIT(
      {
        StandStill();
        SayMuch();
        FATHOM_CHECK(false, "");
      },
      ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST(LoggingTest, UnknownLevelIsRefused) { EXPECT_FALSE(InitLogging({.level = "loud"}).ok()); }

}  // namespace
}  // namespace fathom
