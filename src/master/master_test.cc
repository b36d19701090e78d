#include "master/master.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/files.h"
#include "fathom/v1/inference.grpc.pb.h"
#include "master/api/socket_client_testing.h"
#include "master/serving/fake_fleet_testing.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

std::string TinyPath() {
  const char* root = std::getenv("FATHOM_SOURCE_DIR");
  return absl::StrCat(root == nullptr ? "." : root, "/models/tiny");
}

// A whole master on free ports over a scripted fleet that answers each prompt with `answer_`.
class MasterTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/fathom-master-test-XXXXXX";
    directory_ = mkdtemp(pattern);
    ASSERT_TRUE(WriteFileAtomically(File("keys"),
                                    absl::StrCat("ann:", Sha256Hex("secret"), ":developer:team\n"))
                    .ok());
    config::Master config;
    config.set_http_port(0);
    config.set_grpc_port(0);
    config.set_admin_port(0);
    config.set_link_port(0);
    config.set_insecure_link(true);
    config.set_metrics_port(0);
    config.add_models()->set_path(TinyPath());
    config.set_keys_file(File("keys"));
    config.set_ports_file(File("ports.json"));
    config.set_grpc_reflection(true);
    auto settings = ResolveSettings(config);
    ASSERT_TRUE(settings.ok()) << settings.status();
    auto master = Master::Start(
        *settings,
        [this](const MasterSettings&, const Catalog& catalog,
               const ClusterState&) -> absl::StatusOr<StartedFleet> {
          const ServedModelInfo& model = *catalog.models().front();
          model_ = model;
          auto fleet = std::make_unique<FakeFleet>();
          fleet_ = fleet.get();
          fleet_->SetWorkers({FakeFleet::ReadyWorker("w", model)});
          fleet_->SetScript([this](const Submission& submission, SubmissionListener& listener) {
            Answer(submission, listener);
          });
          return StartedFleet{
              .fleet = std::move(fleet), .port = 1, .stop = [this] { fleet_->Forget(); }};
        });
    ASSERT_TRUE(master.ok()) << master.status();
    master_ = *std::move(master);
  }
  void TearDown() override {
    master_ = nullptr;
    std::filesystem::remove_all(directory_);
  }

  std::string File(const std::string& name) const { return absl::StrCat(directory_, "/", name); }

  void Answer(const Submission& submission, SubmissionListener& listener) {
    if (silent_) return;
    const std::vector<TokenId> tokens = *model_.tokenizer->Encode(answer_);
    for (const SubmissionChoice& choice : submission.choices) {
      for (size_t i = 0; i < tokens.size(); ++i) {
        SubmissionOutput output =
            FakeFleet::Output(choice.index, static_cast<int32_t>(i), {tokens[i]},
                              i + 1 == tokens.size() ? FinishReason::kStop : FinishReason::kNone);
        if (submission.logprobs.output) {
          output.logprobs.push_back({.chosen = {.token = tokens[i], .logprob = -0.5f}});
        }
        listener.OnOutput(std::move(output));
      }
    }
  }

  std::string Post(const std::string& path, const std::string& body,
                   const std::string& key = "secret") {
    SocketClient client(*master_->ports().http);
    client.Send(absl::StrCat("POST ", path,
                             " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                             "Content-Type: application/json\r\nAuthorization: Bearer ",
                             key, "\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
    return client.ReadAll();
  }
  std::string Get(const std::string& path, const std::string& headers = "") {
    SocketClient client(*master_->ports().http);
    client.Send(absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
                             headers, "\r\n"));
    return client.ReadAll();
  }
  static json::value BodyOf(const std::string& answer) {
    const size_t at = answer.find("\r\n\r\n");
    boost::system::error_code error;
    json::value value = json::parse(answer.substr(at + 4), error);
    EXPECT_FALSE(error) << answer;
    return value;
  }
  std::unique_ptr<v1::Inference::Stub> Stub() {
    return v1::Inference::NewStub(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", *master_->ports().grpc), grpc::InsecureChannelCredentials()));
  }
  static void AddKey(grpc::ClientContext& context) {
    context.AddMetadata("authorization", "Bearer secret");
  }

  std::string directory_;
  ServedModelInfo model_;
  FakeFleet* fleet_ = nullptr;
  std::string answer_ = "1 + 2 = 3";
  bool silent_ = false;
  std::unique_ptr<Master> master_;
};

constexpr char kChat[] = R"({"model":"tiny","messages":[{"role":"user","content":"1+2?"}])";

TEST_F(MasterTest, AnswersAChat) {
  const std::string answer = Post("/v1/chat/completions", absl::StrCat(kChat, R"(,"n":2})"));
  ASSERT_TRUE(absl::StartsWith(answer, "HTTP/1.1 200")) << answer;
  const json::value body = BodyOf(answer);
  EXPECT_EQ(body.at("object"), "chat.completion");
  ASSERT_EQ(body.at("choices").as_array().size(), 2u);
  EXPECT_EQ(body.at("choices").at(1).at("message").at("content"), "1 + 2 = 3");
  EXPECT_EQ(body.at("choices").at(1).at("finish_reason"), "stop");
  const auto sent = fleet_->WaitSent(0).submission;
  EXPECT_EQ(body.at("usage").at("prompt_tokens").as_int64(),
            static_cast<int64_t>(sent.prompt.size()));
  EXPECT_EQ(sent.sampling.temperature, 0) << "generation_config.json says do_sample: false";
  EXPECT_EQ(*model_.tokenizer->Decode(sent.prompt, false),
            "<|im_start|>user\n1+2?<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(MasterTest, StreamsAChat) {
  const std::string answer =
      Post("/v1/chat/completions",
           absl::StrCat(kChat, R"(,"stream":true,"stream_options":{"include_usage":true}})"));
  ASSERT_TRUE(absl::StartsWith(answer, "HTTP/1.1 200")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "Content-Type: text/event-stream"));
  EXPECT_TRUE(absl::StrContains(answer, "X-Accel-Buffering: no"));
  EXPECT_TRUE(absl::StrContains(answer, R"("delta":{"role":"assistant","content":""})"));
  EXPECT_TRUE(absl::StrContains(answer, R"("finish_reason":"stop")"));
  EXPECT_TRUE(absl::StrContains(answer, R"("choices":[],"usage":{"prompt_tokens")"));
  EXPECT_TRUE(absl::StrContains(answer, "data: [DONE]\n\n"));
}

TEST_F(MasterTest, AnswersManyPromptsAtOnce) {
  const json::value body = BodyOf(
      Post("/v1/completions", R"({"model":"tiny","prompt":["a",[100,101]],"n":2,"logprobs":0})"));
  ASSERT_EQ(body.at("choices").as_array().size(), 4u);
  EXPECT_EQ(body.at("choices").at(3).at("index").as_int64(), 3);
  EXPECT_EQ(body.at("choices").at(3).at("text"), "1 + 2 = 3");
  EXPECT_FALSE(body.at("choices").at(3).at("logprobs").at("tokens").as_array().empty());
}

TEST_F(MasterTest, AStreamThatCannotGoOnEndsWithAnError) {
  silent_ = true;
  SocketClient client(*master_->ports().http);
  const std::string body = absl::StrCat(kChat, R"(,"stream":true})");
  client.Send(absl::StrCat(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
      "Content-Length: ",
      body.size(), "\r\n\r\n", body));
  const auto sent = fleet_->WaitSent(0);
  sent.listener->OnOutput(FakeFleet::Output(0, 0, *model_.tokenizer->Encode("1 +")));
  client.ReadUntil("1 +");
  const WorkerLoss crash{LossKind::kCrash, absl::UnavailableError("the engine is dead")};
  sent.listener->OnWorkerLost(1, crash);
  fleet_->WaitSent(1).listener->OnWorkerLost(2, crash);
  const std::string rest = client.ReadAll();
  EXPECT_TRUE(absl::StrContains(rest, R"(data: {"error":{"message":"the workers that ran)"))
      << rest;
  EXPECT_TRUE(absl::StrContains(rest, R"("code":"worker_lost")"));
  EXPECT_FALSE(absl::StrContains(rest, "[DONE]"));
  EXPECT_FALSE(absl::EndsWith(rest, "0\r\n\r\n"));
}

TEST_F(MasterTest, AClientThatGoesAwayCancelsItsWork) {
  silent_ = true;
  SocketClient client(*master_->ports().http);
  const std::string body = absl::StrCat(kChat, "}");
  client.Send(absl::StrCat(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
      "Content-Length: ",
      body.size(), "\r\n\r\n", body));
  const auto sent = fleet_->WaitSent(0);
  client.Close();
  EXPECT_EQ(fleet_->WaitCancelled(0).request_id, sent.submission.request_id);
}

TEST_F(MasterTest, KeysGuardEverythingButProbes) {
  for (const char* path : {"/health", "/ready", "/metrics", "/version"}) {
    EXPECT_TRUE(absl::StartsWith(Get(path), "HTTP/1.1 200")) << path;
  }
  for (const char* path : {"/v1/models", "/v1/models/tiny", "/v1/chat/completions", "/nowhere"}) {
    EXPECT_TRUE(absl::StartsWith(Get(path), "HTTP/1.1 401")) << path;
  }
  EXPECT_TRUE(absl::StartsWith(Post("/v1/chat/completions", "{}", "wrong"), "HTTP/1.1 401"));
  const std::string key = "Authorization: Bearer secret\r\n";
  EXPECT_TRUE(absl::StrContains(Get("/v1/models", key), R"("id":"tiny")"));
  EXPECT_TRUE(absl::StrContains(Get("/v1/models/tiny", key), R"("id":"tiny")"));
  EXPECT_TRUE(absl::StartsWith(Get("/v1/models/other", key), "HTTP/1.1 404"));
  EXPECT_TRUE(absl::StartsWith(Get("/nowhere", key), "HTTP/1.1 404"));
  EXPECT_TRUE(absl::StartsWith(Get("/v1/chat/completions", key), "HTTP/1.1 405"));
  EXPECT_TRUE(absl::StartsWith(Get("/v1/models", key + "Origin: http://evil\r\n"), "HTTP/1.1 403"));
}

TEST_F(MasterTest, WrongBodiesHaveTheirStatus) {
  EXPECT_TRUE(absl::StartsWith(Post("/v1/chat/completions", "nonsense"), "HTTP/1.1 400"));
  EXPECT_TRUE(absl::StartsWith(Post("/v1/chat/completions", R"({"model":"gpt-9","messages":[]})"),
                               "HTTP/1.1 404"));
  const std::string too_long =
      Post("/v1/chat/completions", absl::StrCat(kChat, R"(,"max_tokens":100000})"));
  EXPECT_TRUE(absl::StrContains(too_long, "context_length_exceeded")) << too_long;
  SocketClient client(*master_->ports().http);
  client.Send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
      "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_TRUE(absl::StartsWith(client.ReadAll(), "HTTP/1.1 415"));
}

TEST_F(MasterTest, LargeBodiesAreParsedAsWell) {
  const std::string text(200 * 1024, 'x');
  const std::string answer = Post(
      "/v1/chat/completions",
      absl::StrCat(R"({"model":"tiny","messages":[{"role":"user","content":")", text, R"("}]})"));
  EXPECT_TRUE(absl::StrContains(answer, "context_length_exceeded"));
}

TEST_F(MasterTest, NoWorkerMeansNotReadyAnd503) {
  fleet_->SetWorkers({});
  const std::string ready = Get("/ready");
  EXPECT_TRUE(absl::StartsWith(ready, "HTTP/1.1 503")) << ready;
  const std::string answer =
      Post("/v1/chat/completions", absl::StrCat(kChat, R"(,"timeout":0.05})"));
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 503"));
  EXPECT_TRUE(absl::StrContains(answer, "no worker that may run the model is connected"));
}

TEST_F(MasterTest, GeneratesOverGrpc) {
  const auto stub = Stub();
  grpc::ClientContext context;
  AddKey(context);
  v1::GenerateRequest request;
  request.mutable_chat()->set_messages_json(R"([{"role":"user","content":"1+2?"}])");
  request.mutable_logprobs()->set_output(true);
  request.set_n(2);
  const auto reader = stub->Generate(&context, request);
  std::map<int, std::string> text;
  v1::GenerateResponse response;
  v1::GenerateResponse last;
  int finished = 0;
  while (reader->Read(&response)) {
    text[response.choice()] += response.text_delta();
    EXPECT_EQ(response.logprobs_size(), response.token_ids_size());
    finished += response.finish() == v1::FINISH_REASON_STOP ? 1 : 0;
    last = response;
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(text, (std::map<int, std::string>{{0, "1 + 2 = 3"}, {1, "1 + 2 = 3"}}));
  EXPECT_EQ(finished, 2);
  ASSERT_TRUE(last.has_usage());
  EXPECT_GT(last.usage().prompt_tokens(), 0);
}

TEST_F(MasterTest, GrpcErrorsHaveTheirCodes) {
  const auto stub = Stub();
  const auto code = [&](const v1::GenerateRequest& request, bool key) {
    grpc::ClientContext context;
    if (key) AddKey(context);
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    return reader->Finish().error_code();
  };
  v1::GenerateRequest request;
  EXPECT_EQ(code(request, false), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code(request, true), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_text("x");
  request.set_model("other");
  EXPECT_EQ(code(request, true), grpc::StatusCode::NOT_FOUND);
  request.set_model("tiny");
  request.mutable_sampling()->set_top_p(2);
  EXPECT_EQ(code(request, true), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_sampling();
  request.set_timeout_ms(50);
  silent_ = true;
  EXPECT_EQ(code(request, true), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(MasterTest, AGrpcClientThatGoesAwayCancelsItsWork) {
  silent_ = true;
  const auto stub = Stub();
  grpc::ClientContext context;
  AddKey(context);
  v1::GenerateRequest request;
  request.set_text("x");
  const auto reader = stub->Generate(&context, request);
  const auto sent = fleet_->WaitSent(0);
  context.TryCancel();
  EXPECT_EQ(fleet_->WaitCancelled(0).request_id, sent.submission.request_id);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(MasterTest, TokenizesAndDetokenizesOverGrpc) {
  const auto stub = Stub();
  v1::TokenizeRequest request;
  v1::TokenizeResponse tokens;
  request.set_text("héllo 世界");
  {
    grpc::ClientContext context;
    AddKey(context);
    ASSERT_TRUE(stub->Tokenize(&context, request, &tokens).ok());
  }
  grpc::ClientContext context;
  AddKey(context);
  v1::DetokenizeRequest back;
  v1::DetokenizeResponse text;
  *back.mutable_token_ids() = tokens.token_ids();
  ASSERT_TRUE(stub->Detokenize(&context, back, &text).ok());
  EXPECT_EQ(text.text(), "héllo 世界");
  grpc::ClientContext models_context;
  AddKey(models_context);
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub->ListModels(&models_context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).ready_workers(), 1);
}

TEST_F(MasterTest, DrainFinishesWhatRunsAndRefusesWhatComes) {
  silent_ = true;
  SocketClient client(*master_->ports().http);
  const std::string body = absl::StrCat(kChat, "}");
  client.Send(absl::StrCat(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
      "Content-Length: ",
      body.size(), "\r\n\r\n", body));
  const auto sent = fleet_->WaitSent(0);
  EXPECT_FALSE(master_->Drain(absl::ZeroDuration(), [] { return false; }));
  EXPECT_FALSE(master_->Ready().ok());
  sent.listener->OnOutput(
      FakeFleet::Output(0, 0, *model_.tokenizer->Encode("done"), FinishReason::kStop));
  EXPECT_TRUE(absl::StrContains(client.ReadAll(), R"("content":"done")"));
  EXPECT_TRUE(master_->Drain(absl::Seconds(10), [] { return false; }));
}

TEST_F(MasterTest, StoppingTellsClientsWhy) {
  silent_ = true;
  SocketClient client(*master_->ports().http);
  const std::string body = absl::StrCat(kChat, "}");
  client.Send(absl::StrCat(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
      "Content-Length: ",
      body.size(), "\r\n\r\n", body));
  fleet_->WaitSent(0);
  master_ = nullptr;
  const std::string answer = client.ReadAll();
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 503")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "shutting down"));
}

TEST_F(MasterTest, ThePortsFileHoldsWhatWasBound) {
  const auto text = ReadFile(File("ports.json"), 4096);
  ASSERT_TRUE(text.ok());
  const json::value ports = json::parse(*text);
  EXPECT_EQ(ports.at("http").as_int64(), *master_->ports().http);
  EXPECT_EQ(ports.at("grpc").as_int64(), *master_->ports().grpc);
  EXPECT_EQ(ports.at("metrics").as_int64(), *master_->ports().metrics);
  EXPECT_EQ(ports.at("link").as_int64(), 1);
}

}  // namespace
}  // namespace fathom::master
