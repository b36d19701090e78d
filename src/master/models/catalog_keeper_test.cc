#include "master/models/catalog_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "master/models/catalog_changes.h"
#include "master/state/state_testing.h"

namespace fathom::master {
namespace {

std::string TinyPath() {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  return absl::StrCat(root == nullptr ? "." : root, "/models/tiny");
}

class CatalogKeeperTest : public StateTest {
 protected:
  CatalogKeeperTest()
      : session_(ConnectMigrated()),
        database_(Options()),
        configured_(LoadServedModel(TinyPath(), "tiny", absl::Now()).value()),
        live_(Catalog({configured_})),
        keeper_({configured_}, &database_, &live_, Clock::Real()) {}

  CatalogChanges Change() { return {session_.get(), {"tiny"}}; }
  // Whatever happens, the keeper looks again by itself.
  void Await(const std::function<bool(const Catalog&)>& done) {
    const absl::Time limit = absl::Now() + absl::Seconds(20);
    while (!done(*live_.Now()) && absl::Now() < limit) {
      keeper_.Hurry();
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_TRUE(done(*live_.Now()));
  }

  std::unique_ptr<SqlSession> session_;
  Database database_;
  ModelPtr configured_;
  LiveCatalog live_;
  CatalogKeeper keeper_;
};

TEST_F(CatalogKeeperTest, ChangesOfTheDatabaseAreServed) {
  ASSERT_TRUE(Change().Add({.name = "chat", .path = TinyPath(), .pool = "p"}, false).ok());
  Await([](const Catalog& catalog) { return catalog.Find("chat") != nullptr; });
  const ModelPtr first = live_.Now()->Find("chat");
  EXPECT_EQ(first->name, "chat@1");
  EXPECT_EQ(first->base, "chat");
  EXPECT_EQ(first->pool, "p");
  EXPECT_EQ(live_.Now()->Find("tiny"), configured_);

  const auto next = Change().Add({.name = "chat", .path = TinyPath()}, /*replace=*/true);
  ASSERT_TRUE(next.ok());
  ASSERT_TRUE(Change().FinishReplacement(*next).ok());
  Await([](const Catalog& catalog) {
    const ModelPtr model = catalog.Find("chat");
    return model != nullptr && model->version == 2;
  });
  EXPECT_EQ(live_.Now()->Find("chat@1"), nullptr);
  EXPECT_EQ(live_.Now()->Get("chat", {.mark = MarkOf("chat@1")}).value(), first)
      << "for those that ran on it";
  ASSERT_TRUE(Change().Unload("chat", 0).ok());
  Await([](const Catalog& catalog) { return catalog.models().size() == 1; });
  EXPECT_TRUE(absl::IsNotFound(live_.Now()->Get("chat").status()));
}

TEST_F(CatalogKeeperTest, WhatCannotBeReadIsAbsentAndSaysWhy) {
  ASSERT_TRUE(Change().Add({.name = "chat", .path = "/nowhere"}, false).ok());
  Await([](const Catalog& catalog) { return absl::IsUnavailable(catalog.Get("chat").status()); });
  EXPECT_NE(live_.Now()->Get("chat").status().message().find("/nowhere"), std::string::npos);
  EXPECT_EQ(keeper_.rows()->versions.size(), 1u);
}

}  // namespace
}  // namespace fathom::master
