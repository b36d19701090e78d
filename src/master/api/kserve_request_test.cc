#include "master/api/kserve_request.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "master/api/kserve_json.h"
#include "master/api/kserve_model.h"
#include "master/api/kserve_path.h"
#include "master/api/kserve_reply.h"
#include "master/api/kserve_tensor.h"

namespace fathom::master {
namespace {

const Catalog& OneModel() {
  static const Catalog& kCatalog = *new Catalog([] {
    auto model = std::make_shared<ServedModelInfo>();
    model->name = "m";
    model->defaults.temperature = 0.25f;
    return std::vector<ModelPtr>{model};
  }());
  return kCatalog;
}

inference::ModelInferRequest Text(const std::string& text) {
  inference::ModelInferRequest request;
  request.set_model_name("m");
  auto& tensor = *request.add_inputs();
  tensor.set_name("text_input");
  tensor.set_datatype("BYTES");
  tensor.add_shape(1);
  tensor.mutable_contents()->add_bytes_contents(text);
  return request;
}

void AddStop(inference::ModelInferRequest& request, int count) {
  auto& tensor = *request.add_inputs();
  tensor.set_name("stop");
  tensor.set_datatype("BYTES");
  tensor.add_shape(count);
  for (int i = 0; i < count; ++i) tensor.mutable_contents()->add_bytes_contents("s");
}

absl::StatusOr<KserveRequest> Read(inference::ModelInferRequest request) {
  return ReadKserveRequest(std::move(request), OneModel(), absl::Minutes(1), {.id = "0123"});
}

void ExpectBad(const absl::Status& status, const char* said) {
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), said)) << status << " does not say " << said;
}

inference::InferParameter& Parameter(inference::ModelInferRequest& request, const char* name) {
  return (*request.mutable_parameters())[name];
}

TEST(KserveRequestTest, DefaultsAreTheModelsOwn) {
  const auto request = Read(Text("hello"));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(std::get<TextPrompt>(request->generation.prompt).text, "hello");
  EXPECT_EQ(request->generation.sampling.temperature, 0.25f);
  EXPECT_EQ(request->generation.stop.max_tokens, 0);
  EXPECT_EQ(request->generation.timeout, absl::Minutes(1));
  EXPECT_FALSE(request->stream.has_value());
  EXPECT_EQ(request->outputs.size(), 3u);
}

TEST(KserveRequestTest, ParametersSetTheSampling) {
  inference::ModelInferRequest message = Text("x");
  Parameter(message, "temperature").set_double_param(1.5);
  Parameter(message, "max_tokens").set_int64_param(9);
  Parameter(message, "top_k").set_int64_param(-1);
  Parameter(message, "seed").set_uint64_param(~uint64_t{0});
  Parameter(message, "stop").set_string_param("end");
  Parameter(message, "timeout").set_int64_param(2'000'000);
  Parameter(message, "priority").set_uint64_param(3);
  AddStop(message, 0);
  ExpectBad(Read(message).status(), "comes as an input and as a parameter");
  message.mutable_inputs()->RemoveLast();
  const auto request = Read(message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->generation.sampling.temperature, 1.5f);
  EXPECT_EQ(request->generation.sampling.top_k, 0);
  EXPECT_EQ(request->generation.stop.max_tokens, 9);
  EXPECT_EQ(request->generation.seed, ~uint64_t{0});
  EXPECT_EQ(request->generation.stop_strings, std::vector<std::string>{"end"});
  EXPECT_EQ(request->generation.timeout, absl::Seconds(2));
  EXPECT_EQ(request->generation.priority, 2) << "Triton's levels count from 1";
}

TEST(KserveRequestTest, TimeoutsAreBounded) {
  inference::ModelInferRequest message = Text("x");
  Parameter(message, "timeout").set_int64_param(int64_t{1} << 60);
  EXPECT_EQ(Read(message)->generation.timeout, absl::Minutes(1));
  Parameter(message, "timeout").set_int64_param(0);
  EXPECT_EQ(Read(message)->generation.timeout, absl::Minutes(1));
  Parameter(message, "timeout").set_int64_param(-1);
  ExpectBad(Read(message).status(), "timeout");
}

TEST(KserveRequestTest, WhatNobodyKnowsIsRefusedByName) {
  inference::ModelInferRequest message = Text("x");
  Parameter(message, "best_of").set_int64_param(2);
  ExpectBad(Read(message).status(), "'best_of'");
  message = Text("x");
  Parameter(message, "sequence_id").set_int64_param(2);
  ExpectBad(Read(message).status(), "sequence_id");
  message = Text("x");
  Parameter(message, "seed");
  ExpectBad(Read(message).status(), "'seed' has no value");
  message = Text("x");
  message.mutable_inputs(0)->set_name("image");
  ExpectBad(Read(message).status(), "'image' is not an input");
  message = Text("x");
  message.add_outputs()->set_name("logits");
  ExpectBad(Read(message).status(), "'logits' is not an output");
  message = Text("x");
  message.add_outputs()->set_name("text_output");
  message.add_outputs()->set_name("text_output");
  ExpectBad(Read(message).status(), "asked for twice");
  message = Text("x");
  (*message.add_outputs()->mutable_parameters())["classification"].set_int64_param(2);
  message.mutable_outputs(0)->set_name("text_output");
  ExpectBad(Read(message).status(), "classification");
}

TEST(KserveRequestTest, EverythingIsBounded) {
  inference::ModelInferRequest message = Text("x");
  AddStop(message, 17);
  ExpectBad(Read(message).status(), "stop");
  message = Text("x");
  message.set_id(std::string(129, 'i'));
  ExpectBad(Read(message).status(), "id");
  message = Text("x");
  for (int i = 0; i < 65; ++i) Parameter(message, std::to_string(i).c_str()).set_bool_param(true);
  ExpectBad(Read(message).status(), "at most 64 parameters");
  message = Text("x");
  for (int i = 0; i < 17; ++i) message.add_outputs();
  ExpectBad(Read(message).status(), "at most 16 outputs");
}

TEST(KserveRequestTest, VersionsOfTheCatalogue) {
  std::vector<ModelPtr> models;
  for (const int64_t version : {1, 2}) {
    auto model = std::make_shared<ServedModelInfo>();
    model->name = ModelNameOf("chat", version);
    model->base = "chat";
    model->version = version;
    models.push_back(std::move(model));
  }
  const Catalog catalog(
      {.models = models, .routes = {{"chat", {{"chat@2", 100}}}, {"prod", {{"chat@1", 100}}}}});
  EXPECT_EQ(FindKserveModel(catalog, "chat", "").value(), models[1]);
  EXPECT_EQ(FindKserveModel(catalog, "chat", "1").value(), models[0]);
  EXPECT_EQ(FindKserveModel(catalog, "prod", "2").value(), models[1]);
  EXPECT_TRUE(absl::IsNotFound(FindKserveModel(catalog, "chat", "3").status()));
  EXPECT_TRUE(absl::IsNotFound(FindKserveModel(catalog, "", "1").status()));
  EXPECT_EQ(KserveMetadata(catalog, *models[0]).versions_size(), 2);
}

TEST(KserveRequestTest, OneVersionOneModel) {
  inference::ModelInferRequest message = Text("x");
  message.set_model_version("1");
  EXPECT_TRUE(Read(message).ok());
  message.set_model_version("2");
  EXPECT_TRUE(absl::IsNotFound(Read(message).status()));
  message = Text("x");
  message.set_model_name("");
  EXPECT_TRUE(absl::IsNotFound(Read(message).status()));
}

TEST(KserveJsonTest, BinaryTensorsFollowTheJson) {
  const std::string head =
      R"({"id":"a","inputs":[)"
      R"({"name":"text_input","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}},)"
      R"({"name":"max_tokens","datatype":"INT32","shape":[1],"data":[7]}],)"
      R"("outputs":[{"name":"text_output","parameters":{"binary_data":true}}]})";
  const std::string body = head + std::string("\x02\x00\x00\x00hi", 6);
  auto message = ReadInferBody(body, head.size());
  ASSERT_TRUE(message.ok()) << message.status();
  message->set_model_name("m");
  const auto request = Read(*message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(std::get<TextPrompt>(request->generation.prompt).text, "hi");
  EXPECT_EQ(request->generation.stop.max_tokens, 7);
  ASSERT_EQ(request->outputs.size(), 1u);
  EXPECT_TRUE(request->outputs.front().binary);

  ExpectBad(ReadInferBody(body + "x", head.size()).status(), "belong to no input");
  ExpectBad(ReadInferBody(body.substr(0, body.size() - 1), head.size()).status(), "ends before");
  ExpectBad(ReadInferBody(body, body.size() + 1).status(), "more than the body has");
  ExpectBad(ReadInferBody(body, std::nullopt).status(), "JSON");
}

TEST(KserveJsonTest, FlatBodiesKeepTheClientsChat) {
  auto message = ReadGenerateBody(
      R"({"messages":[{"z":1,"role":"user","content":"x"}],"stop":["a","b"],"id":"i"})");
  ASSERT_TRUE(message.ok()) << message.status();
  message->set_model_name("m");
  const auto request = Read(*message);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(std::get<ChatPrompt>(request->generation.prompt).messages_json,
            R"([{"z":1,"role":"user","content":"x"}])");
  EXPECT_EQ(request->generation.stop_strings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request->id, "i");
  ExpectBad(ReadGenerateBody(R"({"text_input":["a",["b",2]]})").status(), "strings");
  ExpectBad(ReadGenerateBody(R"({"temperature":{}})").status(), "temperature");
}

TEST(KserveJsonTest, AnswersInEveryForm) {
  KserveReplyInfo info{
      .model = "m",
      .id = "i",
      .outputs = {{KserveOutputKind::kText, true}, {KserveOutputKind::kIds, false}}};
  inference::ModelInferResponse response =
      KserveResponse(info, {.text = "a\"b", .tokens = {1, 2}, .finish = FinishReason::kStop});
  AddUsage({.prompt_tokens = 3, .completion_tokens = 2}, response);
  EXPECT_EQ(GenerateBody(response),
            R"({"model_name":"m","model_version":"1","id":"i","text_output":"a\"b",)"
            R"("output_ids":[1,2],"cached_tokens":0,"completion_tokens":2,"prompt_tokens":3})");
  const HttpReply reply = InferReply(response, info.outputs);
  EXPECT_EQ(reply.content_type, "application/octet-stream");
  ASSERT_EQ(reply.headers.size(), 1u);
  const size_t json_bytes = std::stoul(reply.headers.front().second);
  EXPECT_EQ(reply.body.substr(json_bytes), std::string("\x03\x00\x00\x00"
                                                       "a\"b",
                                                       7));
  EXPECT_TRUE(
      absl::EndsWith(reply.body.substr(0, json_bytes),
                     R"("outputs":[{"name":"text_output","datatype":"BYTES","shape":[1],)"
                     R"("parameters":{"binary_data_size":7}},)"
                     R"({"name":"output_ids","datatype":"INT32","shape":[2],"data":[1,2]}]})"))
      << reply.body;
}

TEST(KservePathTest, PlacesModelsAndVersions) {
  const auto expect = [](const char* path, KservePlace place, const char* model,
                         const char* version) {
    const KservePath parsed = ParseKservePath(path);
    EXPECT_EQ(parsed.place, place) << path;
    EXPECT_EQ(parsed.model, model) << path;
    EXPECT_EQ(parsed.version, version) << path;
  };
  expect("/v2", KservePlace::kServer, "", "");
  expect("/v2/health/live", KservePlace::kLive, "", "");
  expect("/v2/health/ready", KservePlace::kReady, "", "");
  expect("/v2/models/stats", KservePlace::kStats, "", "");
  expect("/v2/models/m", KservePlace::kModel, "m", "");
  expect("/v2/models/m/versions/1", KservePlace::kModel, "m", "1");
  expect("/v2/models/m/versions/1/infer", KservePlace::kInfer, "m", "1");
  expect("/v2/models/org/m/generate_stream", KservePlace::kGenerateStream, "org/m", "");
  expect("/v2/models/org%2Fm/versions/2/ready", KservePlace::kModelReady, "org/m", "2");
  expect("/v2/repository/index", KservePlace::kIndex, "", "");
  expect("/v2/repository/models/m/unload", KservePlace::kUnload, "m", "");
  for (const char* path : {"/v2/nowhere", "/v2/models/", "/v2/models//infer", "/v2/health",
                           "/v2/repository/models/m", "/v2/models/%zz/infer", "/v3", "/v2x"}) {
    expect(path, KservePlace::kNone, "", "");
  }
  EXPECT_FALSE(KserveNeedsKey(KservePlace::kReady));
  EXPECT_TRUE(KserveNeedsKey(KservePlace::kNone));
}

}  // namespace
}  // namespace fathom::master
