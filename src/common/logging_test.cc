#include "common/logging.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

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

TEST(LoggingTest, UnknownLevelIsRefused) { EXPECT_FALSE(InitLogging({.level = "loud"}).ok()); }

}  // namespace
}  // namespace fathom
