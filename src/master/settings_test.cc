#include "master/settings.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"

namespace fathom::master {
namespace {

config::Master Good() {
  config::Master config;
  config.add_models()->set_path("/models/tiny/");
  config.set_open(true);
  config.mutable_link_tls()->set_ca("ca.pem");
  return config;
}

std::string Refusal(const config::Master& config) {
  const auto settings = ResolveSettings(config);
  EXPECT_EQ(settings.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(settings.status().message());
}

TEST(SettingsTest, DefaultsAreThoseOfTheSchema) {
  const auto settings = ResolveSettings(Good());
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->bind, "127.0.0.1");
  EXPECT_EQ(settings->http_port, 8000);
  EXPECT_EQ(settings->grpc_port, 8001);
  EXPECT_EQ(settings->link_port, 5000);
  EXPECT_EQ(settings->metrics_port, 9090);
  EXPECT_EQ(settings->request_time, absl::Seconds(600));
  EXPECT_EQ(settings->http.body_bytes, 32u << 20);
  EXPECT_FALSE(settings->id.empty());
  EXPECT_TRUE(settings->migration);
}

TEST(SettingsTest, ModelsHaveNamesOfTheirOwn) {
  config::Master config = Good();
  config::Model* second = config.add_models();
  EXPECT_TRUE(absl::StrContains(Refusal(config), "models.path"));
  second->set_path("/elsewhere/tiny");
  EXPECT_TRUE(absl::StrContains(Refusal(config), "twice"));
  second->set_name("other");
  second->set_pool("cv");
  const auto settings = ResolveSettings(config);
  ASSERT_TRUE(settings.ok()) << settings.status();
  ASSERT_EQ(settings->models.size(), 2u);
  EXPECT_EQ(settings->models[0].name, "tiny");
  EXPECT_EQ(settings->models[1].name, "other");
  EXPECT_EQ(settings->models[1].pool, "cv");
  second->set_name("other@2");
  EXPECT_TRUE(absl::StrContains(Refusal(config), "catalogue"));
  config.clear_models();
  EXPECT_TRUE(ResolveSettings(config)->models.empty()) << "all come to the catalogue";
}

TEST(SettingsTest, MinusOneTurnsAListenerOff) {
  config::Master config = Good();
  config.set_grpc_port(-1);
  EXPECT_FALSE(ResolveSettings(config)->grpc_port.has_value());
  config.set_link_port(-1);
  EXPECT_TRUE(absl::StrContains(Refusal(config), "link_port"));
}

TEST(SettingsTest, PlaintextBeyondLoopbackTakesAFlag) {
  config::Master config = Good();
  config.clear_open();
  config.set_keys_file("keys");
  config.set_bind("0.0.0.0");
  EXPECT_TRUE(absl::StrContains(Refusal(config), "insecure_listen"));
  config.set_insecure_listen(true);
  EXPECT_TRUE(ResolveSettings(config).ok());
  config.set_bind("somewhere");
  EXPECT_TRUE(absl::StrContains(Refusal(config), "bind"));
}

TEST(SettingsTest, WorkersWithoutTlsTakeAFlag) {
  config::Master config = Good();
  config.clear_link_tls();
  EXPECT_TRUE(absl::StrContains(Refusal(config), "link_tls"));
  config.set_insecure_link(true);
  EXPECT_TRUE(ResolveSettings(config).ok());
}

TEST(SettingsTest, OpenIsForLoopbackAndExcludesKeys) {
  config::Master config = Good();
  config.set_keys_file("keys");
  EXPECT_TRUE(absl::StrContains(Refusal(config), "keys_file"));
  config.clear_keys_file();
  config.clear_open();
  EXPECT_TRUE(absl::StrContains(Refusal(config), "keys_file"));
  config.set_open(true);
  config.set_bind("10.0.0.1");
  config.set_insecure_listen(true);
  EXPECT_TRUE(absl::StrContains(Refusal(config), "open"));
}

TEST(SettingsTest, LimitsAreBounded) {
  config::Master config = Good();
  config.mutable_limits()->set_choices(-1);
  EXPECT_TRUE(absl::StrContains(Refusal(config), "limits.choices"));
  config.mutable_limits()->set_choices(4);
  config.mutable_limits()->set_request_seconds(5);
  config.mutable_limits()->set_body_seconds(86401);
  EXPECT_TRUE(absl::StrContains(Refusal(config), "limits.body_seconds"));
  config.mutable_limits()->set_body_seconds(7);
  const auto settings = ResolveSettings(config);
  ASSERT_TRUE(settings.ok());
  EXPECT_EQ(settings->choices, 4);
  EXPECT_EQ(settings->request_time, absl::Seconds(5));
  EXPECT_EQ(settings->http.body, std::chrono::seconds(7));
  EXPECT_EQ(settings->http.write, std::chrono::seconds(30));
}

TEST(SettingsTest, TheDatabaseIsCheckedAndItsPasswordIsNoPartOfIt) {
  config::Master master = Good();
  EXPECT_FALSE(ResolveSettings(master)->database.shared());
  master.set_database("postgresql://fathom@db/fathom");
  master.set_link_advertise("10.0.0.7:5000");
  const auto settings = ResolveSettings(master);
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->database.dialect, SqlDialect::kPostgresql);
  EXPECT_EQ(settings->link_advertise, "10.0.0.7:5000");
  master.set_database("postgresql://fathom:secret@db/fathom");
  const std::string refusal = Refusal(master);
  EXPECT_TRUE(absl::StrContains(refusal, "master.database")) << refusal;
  EXPECT_FALSE(absl::StrContains(refusal, "secret")) << refusal;
  master.set_database("sqlite:/tmp/state.db");
  master.set_database_password_file("/tmp/password");
  EXPECT_FALSE(ResolveSettings(master).ok());
  master.clear_database_password_file();
  master.set_link_advertise("nowhere");
  EXPECT_FALSE(ResolveSettings(master).ok());
}

}  // namespace
}  // namespace fathom::master
