#pragma once

// One OpenAI request from its body to the last byte of its answer: parses, starts a generation a
// prompt, gathers or streams what comes. Lives on the exchange's strand; parsing of large bodies
// runs on the CPU pool.

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "master/api/delta_buffer.h"
#include "master/api/http_exchange.h"
#include "master/api/openai_reply.h"
#include "master/api/openai_request.h"
#include "master/serving/serving.h"

namespace fathom::master {

struct OpenAiOptions {
  OpenAiBounds bounds;
  size_t client_backlog_bytes = size_t{4} << 20;
  // A stream that has nothing to say for so long begins anyway, lest something between here and the
  // client gives up. Until then a failure still has its own status.
  std::chrono::milliseconds silence_max{15'000};
};

class OpenAiCall final : public BodySource, public std::enable_shared_from_this<OpenAiCall> {
 public:
  // `serving` and `options` outlive it.
  OpenAiCall(OpenAiKind kind, Serving& serving, const OpenAiOptions& options, HttpCall call,
             std::shared_ptr<HttpExchange> exchange);

  // Once, on the strand.
  void Start();

  State Pull(std::string& out) override;
  std::string_view Ping() const override { return ": ping\n\n"; }

 private:
  class PromptSink;

  // Any thread.
  absl::StatusOr<OpenAiRequest> Parse() const;
  void HandleParsed(absl::StatusOr<OpenAiRequest> parsed);
  absl::Status OnDelta(int32_t prompt, GenerationDelta delta);
  // Puts the prompt before the answer, and drops the answer where only the prompt is wanted.
  void Echo(int32_t prompt, GenerationDelta& delta);
  void OnEnd(const absl::Status& status, const GenerationUsage& usage);
  void BeginStream();
  void CancelAll(const absl::Status& status);
  void Finish();

  const OpenAiKind kind_;
  Serving& serving_;
  const OpenAiOptions& options_;
  HttpCall call_;
  std::shared_ptr<HttpExchange> exchange_;

  // State below is touched on the strand alone.
  std::vector<std::shared_ptr<Generation>> generations_;
  std::optional<OpenAiReply> reply_;
  bool stream_ = false;
  int32_t choices_a_prompt_ = 1;
  std::vector<std::string> echo_;  // one a choice, until its first delta
  bool only_echo_ = false;
  size_t num_running_ = 0;
  bool ended_ = false;
  bool gone_ = false;
  absl::Status failure_;
  GenerationUsage usage_;
  std::vector<OpenAiChoice> choices_;  // whole answers
  DeltaBuffer deltas_;                 // streams
  boost::asio::steady_timer silence_;
};

}  // namespace fathom::master
