#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>

#include "cli/eval/examples.h"
#include "cli/eval/grade.h"
#include "cli/eval/report.h"
#include "common/files.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;

std::string Line(const std::string& id, const std::string& task) {
  return R"({"id":")" + id + R"(","task":")" + task +
         R"(","messages":[{"role":"user","content":"x"}],"expected":"y"})" + "\n";
}

TEST(ExamplesTest, ShippedDataIsRead) {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  ASSERT_NE(root, nullptr);
  const auto text = ReadFile(std::string(root) + "/models/tiny/eval.jsonl", 10 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto examples = ParseExamples(*text);
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_EQ(examples->size(), 1500u);
}

TEST(ExamplesTest, ErrorsNameTheLine) {
  for (const char* bad :
       {"nonsense", "[]", R"({"id":"a"})", R"({"id":"a","task":"t","expected":"e","messages":[]})",
        R"({"id":1,"task":"t","expected":"e","messages":[{}]})"}) {
    const auto examples = ParseExamples(Line("a", "t") + "\n" + bad);
    ASSERT_EQ(examples.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(Message(examples.status())), HasSubstr("line 3")) << bad;
  }
  EXPECT_FALSE(ParseExamples("\n \n").ok());
}

TEST(ExamplesTest, LimitTakesFromEveryTaskInOrder) {
  std::string text;
  for (const char* task : {"a", "b", "c"}) {
    for (int i = 0; i < 4; ++i) text += Line(task + std::to_string(i), task);
  }
  const auto ids = [&](size_t limit) {
    std::string joined;
    for (const Example& example : TakeEvenly(*ParseExamples(text), limit)) joined += example.id;
    return joined;
  };
  EXPECT_EQ(ids(3), "a0b0c0");
  EXPECT_EQ(ids(5), "a0a1b0b1c0");
  EXPECT_EQ(ids(0).size(), 24u);
  EXPECT_EQ(ids(99).size(), 24u);
}

TEST(ExamplesTest, MatchIgnoresWhiteSpaceAroundOnly) {
  EXPECT_TRUE(IsMatch(" a b\n", "a b"));
  EXPECT_FALSE(IsMatch("a  b", "a b"));
  EXPECT_FALSE(IsMatch("A b", "a b"));
}

Grades SomeGrades() {
  Grades grades;
  grades.model = "m";
  grades.tasks["add"] = {.count = 2, .correct = 1, .errors = 1};
  grades.tasks["sub"] = {.count = 100, .correct = 100, .errors = 0};
  grades.misses = {{"add-0", "1", "", "timeout"}};
  grades.completion_tokens = 50;
  grades.took = absl::Seconds(2);
  return grades;
}

TEST(ReportTest, ExactMatchIsTheMeanOfTheTasks) {
  EXPECT_DOUBLE_EQ(SomeGrades().exact_match(), 0.75);
  EXPECT_EQ(Grades().exact_match(), 0);
}

TEST(ReportTest, JsonCarriesAll) {
  const auto object = boost::json::parse(GradesJson(SomeGrades(), "d.jsonl")).as_object();
  EXPECT_EQ(object.at("exact_match").as_double(), 0.75);
  EXPECT_EQ(object.at("count").as_int64(), 102);
  EXPECT_EQ(object.at("errors").as_int64(), 1);
  EXPECT_EQ(object.at("tokens_per_second").as_double(), 25);
  EXPECT_EQ(object.at("tasks").at("add").at("correct").as_int64(), 1);
  EXPECT_EQ(object.at("misses").at(0).at("error").as_string(), "timeout");
}

TEST(ReportTest, TableAndBarAreForPeople) {
  EXPECT_THAT(GradesTable(SomeGrades()), HasSubstr("exact_match"));
  EXPECT_THAT(GradesTable(SomeGrades()), HasSubstr("0.7500"));
  const std::string line = ProgressLine({.done = 1, .of = 2, .correct = 1}, absl::Seconds(1));
  EXPECT_THAT(line, HasSubstr("1/2"));
  EXPECT_THAT(line, HasSubstr("###############..............."));
  EXPECT_FALSE(ProgressLine({}, absl::ZeroDuration()).empty());
}

}  // namespace
}  // namespace fathom::cli
