#include "master/models/catalog_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

using testing::ElementsAre;

class CatalogChangesTest : public StateTest {
 protected:
  CatalogChangesTest() : session_(ConnectMigrated()) {}

  CatalogChanges Change() { return {session_.get(), {"tiny"}}; }
  ModelVersionRow Load(const std::string& name, bool replace = false) {
    auto row = Change().Add({.name = name, .path = "/models/x"}, replace);
    EXPECT_TRUE(row.ok()) << row.status();
    return row.value_or(ModelVersionRow());
  }
  CatalogRows Rows() { return ReadCatalogRows(*session_).value(); }
  ModelVersionRow Version(const std::string& name, int64_t version) {
    for (const ModelVersionRow& row : Rows().versions) {
      if (row.name == name && row.version == version) return row;
    }
    ADD_FAILURE() << name << " has no version " << version;
    return {};
  }
  std::map<std::string, std::string> Routes() {
    std::map<std::string, std::string> routes;
    for (const RouteRow& route : Rows().routes) routes[route.name] = route.targets;
    return routes;
  }

  std::unique_ptr<SqlSession> session_;
};

TEST_F(CatalogChangesTest, TheFirstVersionGetsTheName) {
  const int64_t before = Rows().revision;
  EXPECT_EQ(Load("chat").version, 1);
  EXPECT_EQ(Load("chat").version, 2);
  EXPECT_EQ(Routes()["chat"], "chat@1=100");
  EXPECT_EQ(Rows().revision, before + 2);
  EXPECT_GT(Version("chat", 1).created_s, 1'700'000'000);
  EXPECT_EQ(Load("tiny").version, 1);
  EXPECT_FALSE(Routes().contains("tiny")) << "the configuration has that name";
  EXPECT_FALSE(Change().Add({.name = "a@b", .path = "/x"}, false).ok());
  EXPECT_EQ(Rows().revision, before + 3) << "what is refused changes nothing";
}

TEST_F(CatalogChangesTest, RoutesLeadToWhatIsThere) {
  Load("chat");
  Load("chat");
  EXPECT_TRUE(Change().SetRoute("chat-prod", {{"chat@2", 100}}).ok());
  EXPECT_TRUE(Change().SetRoute("mixed", {{"chat@2", 50}, {"tiny", 50}}).ok());
  EXPECT_TRUE(absl::IsNotFound(Change().SetRoute("x", {{"chat@3", 100}})));
  EXPECT_TRUE(absl::IsNotFound(Change().SetRoute("x", {{"chat", 100}})))
      << "not a route of a route";
  EXPECT_FALSE(Change().SetRoute("x", {{"chat@1", 99}}).ok());
  EXPECT_TRUE(Change().Canary("chat", "chat@2", 5).ok());
  EXPECT_EQ(Routes()["chat"], "chat@1=95,chat@2=5");
  EXPECT_TRUE(Change().Canary("tiny", "chat@2", 10).ok());
  EXPECT_EQ(Routes()["tiny"], "tiny=90,chat@2=10") << "beside what the configuration serves";
  EXPECT_TRUE(absl::IsNotFound(Change().Canary("nobody", "chat@2", 5)));
  EXPECT_TRUE(Change().DropRoute("tiny").ok());
  EXPECT_TRUE(absl::IsNotFound(Change().DropRoute("tiny")));
}

TEST_F(CatalogChangesTest, WhatIsRoutedToStays) {
  Load("chat");
  Load("chat");
  EXPECT_TRUE(absl::IsFailedPrecondition(Change().Unload("chat", 1)));
  ASSERT_TRUE(Change().SetRoute("chat", {{"chat@2", 100}}).ok());
  EXPECT_TRUE(Change().Unload("chat", 1).ok());
  EXPECT_TRUE(Version("chat", 1).retired);
  EXPECT_TRUE(absl::IsNotFound(Change().Unload("chat", 1))) << "again";
  EXPECT_TRUE(absl::IsNotFound(Change().Unload("tiny", 0)));
  ASSERT_TRUE(Change().SetRoute("prod", {{"chat@2", 100}}).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Change().Unload("chat", 0))) << "prod leads there";
  ASSERT_TRUE(Change().DropRoute("prod").ok());
  EXPECT_TRUE(Change().Unload("chat", 0).ok());
  EXPECT_FALSE(Routes().contains("chat"));
  EXPECT_EQ(Load("chat").version, 3) << "numbers are never used again";
}

TEST_F(CatalogChangesTest, AReplacementTakesOverWhenItIsReady) {
  Load("chat");
  ASSERT_TRUE(Change().SetRoute("prod", {{"chat@1", 60}, {"tiny", 40}}).ok());
  const ModelVersionRow next = Load("chat", /*replace=*/true);
  EXPECT_EQ(next.replaces, 1);
  EXPECT_EQ(Routes()["chat"], "chat@1=100") << "not yet";
  ASSERT_TRUE(Change().FinishReplacement(next).ok());
  EXPECT_EQ(Routes()["chat"], "chat@2=100");
  EXPECT_EQ(Routes()["prod"], "chat@2=60,tiny=40");
  EXPECT_TRUE(Version("chat", 1).retired);
  EXPECT_EQ(Version("chat", 2).replaces, 0);
  EXPECT_TRUE(absl::IsAborted(Change().FinishReplacement(next))) << "by another leader, before";
  EXPECT_EQ(Load("new", /*replace=*/true).replaces, 0) << "nothing to replace";
}

TEST_F(CatalogChangesTest, AReplacementThatNeverCameMakesWay) {
  Load("chat");
  const ModelVersionRow broken = Load("chat", /*replace=*/true);
  const auto fixed = Change().Reload("chat", 0);
  ASSERT_TRUE(fixed.ok()) << fixed.status();
  EXPECT_EQ(fixed->replaces, 1);
  EXPECT_EQ(fixed->path, "/models/x");
  EXPECT_TRUE(Version("chat", broken.version).retired);
  EXPECT_TRUE(absl::IsAborted(Change().FinishReplacement(broken)));
  EXPECT_TRUE(Change().FinishReplacement(*fixed).ok());
  EXPECT_EQ(Routes()["chat"], "chat@3=100");
  EXPECT_TRUE(absl::IsNotFound(Change().Reload("chat", 1).status())) << "retired";
  EXPECT_TRUE(absl::IsNotFound(Change().Reload("nobody", 0).status()));
}

TEST_F(CatalogChangesTest, WhatServesIsReplacedNotWhatIsNewest) {
  Load("chat");
  Load("chat");  // loaded, and nothing leads there
  const auto again = Change().Reload("chat", 0);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->replaces, 1);
  ASSERT_TRUE(Change().FinishReplacement(*again).ok());
  EXPECT_EQ(Routes()["chat"], "chat@3=100");
  EXPECT_FALSE(Version("chat", 2).retired) << "loaded for its own sake";
  ASSERT_TRUE(Change().DropRoute("chat").ok());
  EXPECT_EQ(Load("chat", /*replace=*/true).replaces, 3) << "the newest, where nothing leads";
}

TEST_F(CatalogChangesTest, ARollbackIsTheWayBack) {
  Load("chat");
  EXPECT_TRUE(absl::IsFailedPrecondition(Change().Rollback("chat").status())) << "to what?";
  Load("chat");
  ASSERT_TRUE(Change().Canary("chat", "chat@2", 20).ok());
  EXPECT_THAT(Change().Rollback("chat").value().loading, ElementsAre());
  EXPECT_EQ(Routes()["chat"], "chat@1=100");
  EXPECT_THAT(Change().Rollback("chat").value().loading, ElementsAre()) << "and forth";
  EXPECT_EQ(Routes()["chat"], "chat@1=80,chat@2=20");
}

TEST_F(CatalogChangesTest, ARollbackToARetiredVersionLoadsItFirst) {
  Load("chat");
  ASSERT_TRUE(Change().FinishReplacement(Load("chat", /*replace=*/true)).ok());
  ASSERT_TRUE(Change().SetRoute("other", {{"chat@2", 100}}).ok());
  EXPECT_THAT(Change().Rollback("chat").value().loading, ElementsAre("chat@1"));
  EXPECT_EQ(Routes()["chat"], "chat@2=100") << "until the other is back";
  EXPECT_FALSE(Version("chat", 1).retired);
  EXPECT_TRUE(absl::IsFailedPrecondition(Change().Unload("chat", 1))) << "it is needed soon";
  const RouteRow route = Rows().routes.front();
  EXPECT_EQ(route.pending, "chat@1=100");
  ASSERT_TRUE(Change().FinishRoute(route).ok());
  EXPECT_EQ(Routes()["chat"], "chat@1=100");
  EXPECT_EQ(Routes()["other"], "chat@2=100") << "another name's business";
  EXPECT_FALSE(Version("chat", 2).retired);
  EXPECT_TRUE(absl::IsAborted(Change().FinishRoute(route))) << "by another leader, before";
}

TEST_F(CatalogChangesTest, AnotherChangeEndsARollbackThatWaits) {
  Load("chat");
  ASSERT_TRUE(Change().FinishReplacement(Load("chat", /*replace=*/true)).ok());
  ASSERT_TRUE(Change().Rollback("chat").ok());
  const RouteRow route = Rows().routes.front();
  ASSERT_TRUE(Change().SetRoute("chat", {{"tiny", 100}}).ok());
  EXPECT_EQ(Rows().routes.front().pending, "");
  EXPECT_TRUE(absl::IsAborted(Change().FinishRoute(route)));
  EXPECT_EQ(Routes()["chat"], "tiny=100");
}

TEST_F(CatalogChangesTest, OldRetiredVersionsAreForgotten) {
  for (int i = 0; i < 30; ++i) {
    const ModelVersionRow row = Load("chat", /*replace=*/true);
    if (i > 0) {
      ASSERT_TRUE(Change().FinishReplacement(row).ok());
    }
  }
  EXPECT_LE(Rows().versions.size(), 18u);
  EXPECT_EQ(Routes()["chat"], "chat@30=100");
}

TEST_F(CatalogChangesTest, ManyAtOnceComeOneAfterTheOther) {
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      auto session = SqlSession::Connect(url_, absl::Seconds(10));
      for (int k = 0; k < 10; ++k) {
        absl::Status status = absl::UnavailableError("not tried");
        // SQLite says that it is busy after a while.
        while (absl::IsUnavailable(status)) {
          status = CatalogChanges(session->get(), {})
                       .Add({.name = "chat", .path = "/x"}, false)
                       .status();
        }
        failed += status.ok() ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  std::set<int64_t> versions;
  for (const ModelVersionRow& row : Rows().versions) versions.insert(row.version);
  EXPECT_EQ(versions.size(), 40u);
  EXPECT_EQ(*versions.rbegin(), 40);
}

}  // namespace
}  // namespace fathom::master
