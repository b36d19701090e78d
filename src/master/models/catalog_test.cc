#include "master/models/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

using testing::ElementsAre;

ModelPtr Model(const std::string& base, int64_t version = 0) {
  auto model = std::make_shared<ServedModelInfo>();
  model->name = ModelNameOf(base, version);
  model->base = base;
  model->version = version == 0 ? 1 : version;
  return model;
}

TEST(CatalogTest, FindsByNameAndTheOnlyOneWithout) {
  const ModelPtr a = Model("a");
  const ModelPtr b = Model("b");
  const Catalog one({a});
  EXPECT_EQ(one.Find("a"), a);
  EXPECT_EQ(one.Find(""), a);
  EXPECT_EQ(one.Find("b"), nullptr);
  const Catalog two({a, b});
  EXPECT_EQ(two.Find("b"), b);
  EXPECT_EQ(two.Find(""), nullptr);
}

TEST(CatalogTest, ARouteIsDrawnByRequest) {
  const ModelPtr stable = Model("chat", 7);
  const ModelPtr canary = Model("chat", 8);
  const Catalog catalog(
      {.models = {stable, canary, Model("tiny")},
       .routes = {{"chat", {{"chat@7", 80}, {"chat@8", 20}}}, {"tiny", {{"chat@8", 100}}}}});
  EXPECT_EQ(catalog.Find("chat"), stable) << "the greater weight";
  EXPECT_EQ(catalog.Find("chat@8"), canary) << "a version by its name";
  EXPECT_EQ(catalog.Find("tiny"), canary) << "a route goes before the model of its name";
  std::map<ModelPtr, int> drawn;
  for (int i = 0; i < 1000; ++i)
    ++drawn[catalog.Get("chat", {.request_id = absl::StrCat(i)}).value()];
  EXPECT_NEAR(drawn[canary], 200, 40);
  EXPECT_EQ(drawn[stable] + drawn[canary], 1000);
  EXPECT_THAT(catalog.VersionsOf("chat"), ElementsAre(7, 8));
}

TEST(CatalogTest, WhoComesBackGetsTheModelOfBefore) {
  const ModelPtr retired = Model("chat", 6);
  const ModelPtr now = Model("chat", 7);
  const Catalog catalog(
      {.models = {now}, .retired = {retired}, .routes = {{"chat", {{"chat@7", 100}}}}});
  EXPECT_TRUE(absl::IsNotFound(catalog.Get("chat@6").status())) << "no new requests";
  EXPECT_EQ(catalog.Get("chat", {.request_id = "x", .mark = MarkOf("chat@6")}).value(), retired);
  EXPECT_EQ(catalog.Get("chat", {.request_id = "x", .mark = MarkOf("chat@7")}).value(), now);
  EXPECT_TRUE(absl::IsNotFound(catalog.Get("chat", {.mark = MarkOf("chat@5")}).status()));
}

TEST(CatalogTest, BeforeTheDatabaseWasReadNothingIsSaidNotToExist) {
  const ModelPtr configured = Model("tiny");
  const Catalog catalog({.models = {configured}, .whole = false});
  EXPECT_EQ(catalog.Get("tiny").value(), configured);
  EXPECT_TRUE(absl::IsUnavailable(catalog.Get("chat").status()));
  EXPECT_TRUE(absl::IsUnavailable(catalog.Get("chat", {.mark = MarkOf("chat@5")}).status()));
}

TEST(CatalogTest, AModelThatCannotBeReadIsNotThereYet) {
  const Catalog catalog(
      {.routes = {{"chat", {{"chat@1", 100}}}}, .absent = {{"chat@1", "no disk"}}});
  const absl::Status status = catalog.Get("chat").status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_NE(status.message().find("no disk"), std::string::npos);
  EXPECT_TRUE(absl::IsNotFound(catalog.Get("chat@2").status()));
}

}  // namespace
}  // namespace fathom::master
