#include "cli/admin/catalog_text.h"

#include <gtest/gtest.h>

namespace fathom::cli {
namespace {

TEST(CatalogTextTest, ModelsAndReplicasAreRead) {
  EXPECT_EQ(ParseModel("chat")->version, 0);
  EXPECT_EQ(ParseModel("org/chat@7")->name, "org/chat");
  EXPECT_EQ(ParseModel("org/chat@7")->version, 7);
  for (const char* text : {"chat@", "chat@0", "chat@x", "chat@-2"}) {
    EXPECT_FALSE(ParseModel(text).ok()) << text;
  }
  EXPECT_EQ(ParseReplicas("all").value(), -1);
  EXPECT_EQ(ParseReplicas("3").value(), 3);
  for (const char* text : {"0", "-1", "many", ""}) EXPECT_FALSE(ParseReplicas(text).ok()) << text;
}

TEST(CatalogTextTest, ARouteHasAWeightForEachOfSeveral) {
  const auto one = RouteOf("prod", {"chat@7"});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->targets(0).weight(), 100);
  const auto two = RouteOf("prod", {"chat@7=95", "chat@8=5"});
  ASSERT_TRUE(two.ok());
  EXPECT_EQ(SharesText(two->targets()), "chat@7 95%, chat@8 5%");
  EXPECT_FALSE(RouteOf("prod", {"chat@7", "chat@8"}).ok());
  EXPECT_FALSE(RouteOf("prod", {"chat@7=many"}).ok());
  EXPECT_FALSE(RouteOf("prod", {}).ok());
}

TEST(CatalogTextTest, TheListSaysWhereAVersionIsAndWhyNot) {
  v1::ListCatalogResponse catalog;
  EXPECT_EQ(CatalogText(catalog), "no model is served: fathom model load PATH\n");
  v1::CatalogVersion* version = catalog.add_versions();
  version->set_model("chat@2");
  version->set_version(2);
  version->set_replicas(2);
  version->set_memory_bytes(int64_t{3} << 30);
  version->set_state("loading");
  version->set_detail("1 of 2 ready, 43% on w1");
  version->set_ready_workers(1);
  version->set_replaces(1);
  v1::VersionOnWorker* worker = version->add_workers();
  worker->set_worker("w0");
  worker->set_phase("ready");
  worker = version->add_workers();
  worker->set_worker("w1");
  worker->set_phase("loading");
  v1::RouteStatus* route = catalog.add_routes();
  route->set_name("chat");
  v1::RouteShare* share = route->add_targets();
  share->set_model("chat@1");
  share->set_weight(100);
  share = route->add_pending();
  share->set_model("chat@2");
  share->set_weight(100);
  EXPECT_EQ(CatalogText(catalog),
            "MODEL   READY  WANTED  POOL  MEMORY   WORKERS         STATE\n"
            "chat@2  1      2       -     3.0 GiB  w0,w1(loading)  loading, replaces @1: 1 of 2 "
            "ready, 43% on w1\n"
            "\n"
            "NAME  LEADS TO               BEFORE\n"
            "chat  chat@1 (soon: chat@2)  -\n");
}

}  // namespace
}  // namespace fathom::cli
