#include "cli/chaos/tally.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/chaos/journal.h"
#include "cli/chaos/report.h"
#include "common/files.h"

namespace fathom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

RunTally Of(const std::string& journal) {
  std::istringstream lines(journal);
  const auto tally = TallyJournal(lines);
  EXPECT_TRUE(tally.ok()) << tally.status();
  return tally.value_or(RunTally());
}

constexpr char kTwoRequests[] =
    R"({"record":"begin","n":1,"client":"ours","at_ms":0}
{"record":"begin","n":2,"client":"plain","at_ms":1}
{"record":"fault","f":0,"kind":"kill","worker":2,"ids":["a"],"at_ms":50}
{"record":"healed","f":0,"at_ms":60}
{"record":"end","n":1,"at_ms":2000,"ended":"ok","tokens":9,"ids":["a"],"legs":[[0,0,2000]],)"
    R"("gaps":[[900,1000],[49,300],[0,5]],"histogram":[[40,9]]}
{"record":"end","n":2,"at_ms":90,"ended":"error","error":"X","ids":["b"],"legs":[[0,1,90]],)"
    R"("gaps":[],"histogram":[[41,3]],"missing":2,"wrong_usage":true}
)";

TEST(TallyTest, EndsAreCountedByClientAndByTheFaultTheyMet) {
  const RunTally tally = Of(kTwoRequests);
  EXPECT_EQ(tally.faults.at("kill"), 1);
  const ClientTally& ours = tally.clients.at("ours");
  EXPECT_EQ(ours.all.requests, 1);
  EXPECT_EQ(ours.all.lost, 0);
  EXPECT_EQ(ours.by_fault.at("kill").requests, 1);
  // The pause of a second began long after the fault.
  ASSERT_EQ(ours.by_fault.at("kill").stalls_ms.size(), 1u);
  EXPECT_NEAR(ours.by_fault.at("kill").stalls_ms[0], 300 - GapHistogram::UpperMs(40), 0.1);
  const ClientTally& plain = tally.clients.at("plain");
  EXPECT_EQ(plain.all.lost, 1);
  EXPECT_EQ(plain.all.missing, 2);
  EXPECT_EQ(plain.all.wrong_usage, 1);
  EXPECT_THAT(plain.by_fault, IsEmpty());
  EXPECT_EQ(plain.errors.at("X"), 1);
  EXPECT_NEAR(tally.bystanders.Quantile(0.5), GapHistogram::UpperMs(41), 1e-6);
  EXPECT_THAT(tally.fault_ids, ElementsAre("a"));
  EXPECT_EQ(tally.stray_ends, 0);
}

TEST(TallyTest, AMastersFaultIsMetByWhatWasThere) {
  const RunTally tally = Of(
      R"({"record":"begin","n":1,"client":"ours","at_ms":0}
{"record":"begin","n":2,"client":"ours","at_ms":0}
{"record":"fault","f":0,"kind":"master-kill","master":1,"ids":[],"at_ms":50}
{"record":"end","n":1,"at_ms":99,"ended":"ok","ids":[],"legs":[[1,0,51],[0,60,99]]}
{"record":"end","n":2,"at_ms":99,"ended":"ok","ids":[],"legs":[[0,0,99]]}
)");
  EXPECT_EQ(tally.clients.at("ours").by_fault.at("master-kill").requests, 1);
  EXPECT_EQ(tally.clients.at("ours").all.resumed, 1);
}

TEST(TallyTest, AFaultOfTheDatabaseIsMetByEveryRequestOfItsTime) {
  const std::string fault =
      FaultRecord({.number = 0, .kind = FaultKind::kDatabaseStop, .ids = {"a"}}, 50);
  EXPECT_THAT(fault, HasSubstr(R"("kind":"database-stop")"));
  const RunTally tally = Of(
      R"({"record":"begin","n":1,"client":"ours","at_ms":0}
{"record":"begin","n":2,"client":"plain","at_ms":0}
{"record":"begin","n":3,"client":"plain","at_ms":60}
{"record":"begin","n":4,"client":"plain","at_ms":90}
)" + fault +
      HealedRecord(0, 80) +
      R"({"record":"end","n":1,"at_ms":99,"ended":"ok","ids":["a"],"gaps":[[55,30]],"histogram":[[40,9]]}
{"record":"end","n":2,"at_ms":40,"ended":"ok","ids":["b"]}
{"record":"end","n":3,"at_ms":99,"ended":"error","ids":[]}
{"record":"end","n":4,"at_ms":99,"ended":"ok","ids":["c"]}
)");
  EXPECT_EQ(tally.faults.at("database-stop"), 1);
  const Counts& ours = tally.clients.at("ours").by_fault.at("database-stop");
  EXPECT_EQ(ours.requests, 1);
  EXPECT_EQ(ours.stalls_ms.size(), 1u);
  const Counts& plain = tally.clients.at("plain").by_fault.at("database-stop");
  EXPECT_EQ(plain.requests, 1);
  EXPECT_EQ(plain.lost, 1);
  EXPECT_THAT(tally.fault_ids, ElementsAre("a"));
  // No master was disturbed: a plain client is promised that nothing is lost.
  EXPECT_THAT(BrokenPromises({.tally = tally, .setup_json = "{}"}),
              ElementsAre(HasSubstr("plain: 1 of 3")));
}

TEST(TallyTest, WhatBeganAndDidNotEndIsHungAndNothingEndsTwice) {
  const RunTally tally = Of(
      R"({"record":"begin","n":1,"client":"ours","at_ms":0}
{"record":"begin","n":2,"client":"ours","at_ms":0}
{"record":"end","n":2,"at_ms":99,"ended":"ok"}
{"record":"end","n":2,"at_ms":99,"ended":"ok"}
)");
  EXPECT_EQ(tally.clients.at("ours").all.hung, 1);
  EXPECT_EQ(tally.clients.at("ours").all.lost, 1);
  EXPECT_EQ(tally.stray_ends, 1);
  EXPECT_THAT(BrokenPromises({.tally = tally}).size(), 2u);
}

TEST(TallyTest, ALineThatIsNoRecordIsSaid) {
  std::istringstream lines("{}\nnonsense\n");
  EXPECT_THAT(std::string(TallyJournal(lines).status().message()), HasSubstr("line 2"));
}

TEST(ReportTest, APlainClientIsPromisedLessOnlyWhereMastersDie) {
  ChaosResult result{.setup_json = "{}"};
  result.tally.clients["plain"].all = {.requests = 5, .ok = 4, .lost = 1};
  result.tally.faults["kill"] = 3;
  EXPECT_EQ(BrokenPromises(result).size(), 1u);
  result.tally.faults["master-kill"] = 1;
  EXPECT_THAT(BrokenPromises(result), IsEmpty());
  result.tally.clients["resuming"].all = {.requests = 5, .ok = 4, .lost = 1};
  EXPECT_EQ(BrokenPromises(result).size(), 1u);
  result.tally.clients["plain"].all.wrong = 1;
  EXPECT_EQ(BrokenPromises(result).size(), 2u);
  result.checks = {.conservation_broken = "x", .history_broken = "y", .crashes = 1};
  EXPECT_EQ(BrokenPromises(result).size(), 5u);
  result.checks.leaders = 1;
  EXPECT_EQ(BrokenPromises(result).size(), 5u);
  result.checks.leaders = 0;
  EXPECT_EQ(BrokenPromises(result).size(), 6u);
}

TEST(ReportTest, WorkersTakenForDeadBreakAnUndisturbedRun) {
  ChaosResult result{.checks = {.migrations = 2}, .setup_json = "{}"};
  EXPECT_EQ(BrokenPromises(result).size(), 1u);
  result.tally.faults["kill"] = 1;
  EXPECT_THAT(BrokenPromises(result), IsEmpty());
}

TEST(ReportTest, TableAndJsonTellTheSame) {
  ChaosResult result{.tally = Of(kTwoRequests), .setup_json = R"({"seed":1})"};
  EXPECT_THAT(ChaosTable(result), HasSubstr("kill"));
  const std::string json = ChaosJson(result);
  EXPECT_THAT(json, HasSubstr(R"("kills":1)"));
  EXPECT_THAT(json, HasSubstr(R"("master_kills":0)"));
  EXPECT_THAT(json, HasSubstr(R"("missing_tokens":2)"));
  EXPECT_THAT(json, HasSubstr(R"("stall_p99_ms")"));
}

TEST(JournalTest, WhatIsAddedIsOnTheDiskAndReadsBack) {
  const std::string path = ::testing::TempDir() + "/journal.jsonl";
  {
    auto journal = Journal::Create(path);
    ASSERT_TRUE(journal.ok()) << journal.status();
    (*journal)->Add(BeginRecord({.number = 4, .client = ClientKind::kOurs, .question = "q"}, 1.5));
    (*journal)->Add(
        FaultRecord({.number = 0, .kind = FaultKind::kCut, .worker = 1, .ids = {"i"}}, 2));
    (*journal)->Add(HealedRecord(0, 3));
    Transcript transcript{Injector(InjectionKind::kNone, 1)};
    v1::GenerateResponse piece;
    piece.set_id("i");
    piece.set_text_delta("x");
    transcript.OnGrpc(piece, 2'000'000);
    transcript.OnGrpc(piece, 902'000'000);
    const Asked asked{.status = absl::UnavailableError("gone"),
                      .legs = {{.master = 0, .from_ns = 1'500'000, .until_ns = 903'000'000}},
                      .transcript = std::move(transcript)};
    (*journal)->Add(EndRecord(4, asked, {.text = {.wrong = 2}}, 903, 0));
    ASSERT_TRUE((*journal)->Flush().ok());
    std::ifstream lines(path);
    const auto tally = TallyJournal(lines);
    ASSERT_TRUE(tally.ok()) << tally.status();
    const Counts& counts = tally->clients.at("ours").by_fault.at("cut");
    EXPECT_EQ(counts.lost, 1);
    EXPECT_EQ(counts.wrong, 2);
    ASSERT_EQ(counts.stalls_ms.size(), 1u);
  }
  std::filesystem::remove(path);
}

TEST(JournalTest, AFolderThatIsNotThereIsAnError) {
  EXPECT_FALSE(Journal::Create("/nonexistent/folder/journal").ok());
}

}  // namespace
}  // namespace fathom::cli
