#include "master/api/kserve_call.h"

#include <boost/asio/post.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/caller.h"
#include "master/api/kserve_json.h"
#include "master/api/resume_headers.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

// Larger ones are parsed on the CPU pool: a hop costs less than holding up an I/O thread.
constexpr size_t kInlineBodyBytes = 16 * 1024;

absl::StatusOr<std::optional<size_t>> JsonBytes(const HttpCall& call) {
  const auto found = call.headers.find("Inference-Header-Content-Length");
  if (found == call.headers.end()) return std::optional<size_t>();
  const auto value = found->value();
  uint64_t bytes = 0;
  if (!absl::SimpleAtoi(absl::string_view(value.data(), value.size()), &bytes)) {
    return absl::InvalidArgumentError("Inference-Header-Content-Length is no number");
  }
  return std::optional<size_t>(bytes);
}

}  // namespace

KserveCall::KserveCall(KservePath path, Serving& serving, const KserveHttpOptions& options,
                       HttpCall call, std::shared_ptr<HttpExchange> exchange)
    : path_(std::move(path)),
      serving_(serving),
      options_(options),
      call_(std::move(call)),
      exchange_(std::move(exchange)),
      deltas_(options.client_backlog_bytes),
      silence_(exchange_->strand()) {}

void KserveCall::Start() {
  exchange_->OnGone([self = shared_from_this()](const absl::Status& reason) {
    self->gone_ = true;
    // The first reason is the real one: a client that was given up is also too slow.
    if (self->exchange_->record().error.empty()) self->exchange_->record().error = Message(reason);
    if (const auto generation = self->generation_) generation->Leave(reason);
  });
  if (call_.body.size() <= kInlineBodyBytes) return HandleParsed(Parse());
  const bool accepted = serving_.pool().Submit([self = shared_from_this()] {
    auto parsed = std::make_shared<absl::StatusOr<Parsed>>(self->Parse());
    boost::asio::post(self->exchange_->strand(),
                      [self, parsed] { self->HandleParsed(std::move(*parsed)); });
  });
  if (!accepted) {
    Fail(WithRetryAfter(absl::ResourceExhaustedError("too many requests wait for parsing"),
                        absl::Seconds(1)));
  }
}

absl::StatusOr<inference::ModelInferRequest> KserveCall::ReadBody() const {
  if (path_.place != KservePlace::kInfer) return ReadGenerateBody(call_.body);
  ASSIGN_OR_RETURN(const std::optional<size_t> json_bytes, JsonBytes(call_));
  return ReadInferBody(call_.body, json_bytes);
}

absl::StatusOr<KserveCall::Parsed> KserveCall::Parse() const {
  // The place says which model it is for.
  const std::string asked = absl::StrCat(call_.path, "\n", call_.body);
  ASSIGN_OR_RETURN(const ResumeAsk ask, ReadResumeAsk(call_, asked));
  const ResumeKeys& keys = serving_.resume_keys();
  const RequestDraw draw = DrawOf(ask, keys, call_.principal, serving_.NewId());
  ASSIGN_OR_RETURN(inference::ModelInferRequest message, ReadBody());
  message.set_model_name(path_.model);
  message.set_model_version(path_.version);
  const CatalogPtr catalog = serving_.catalog();
  Parsed parsed;
  ASSIGN_OR_RETURN(parsed.request,
                   ReadKserveRequest(std::move(message), *catalog, options_.timeout_max, draw));
  const bool streams = path_.place == KservePlace::kGenerateStream;
  if (!streams && parsed.request.stream.value_or(false)) {
    return BadField("stream", "this place answers as a whole; use generate_stream for streams");
  }
  parsed.stream = streams && parsed.request.stream.value_or(true);
  const GenerationRequest& generation = parsed.request.generation;
  ASSIGN_OR_RETURN(parsed.resume, PlanResumption(ask, keys, call_.principal, draw.id,
                                                 absl::ToUnixSeconds(serving_.clock().Now()),
                                                 static_cast<size_t>(generation.n)));
  if (catalog->IsRoute(path_.model)) parsed.resume.model = MarkOf(generation.model->name);
  // Whole answers are told from the start.
  if (!parsed.stream) parsed.resume.resumes = false;
  return parsed;
}

void KserveCall::HandleParsed(absl::StatusOr<Parsed> parsed) {
  call_.body = std::string();
  if (gone_) return;
  if (!parsed.ok()) return Fail(parsed.status());
  GenerationRequest& request = parsed->request.generation;
  info_ = {.model = request.model->base,
           .version = request.model->version,
           .id = std::move(parsed->request.id),
           .outputs = std::move(parsed->request.outputs)};
  stream_ = parsed->stream;
  cursor_.emplace(parsed->resume, static_cast<size_t>(request.n));
  usage_told_ = parsed->resume.resumes && parsed->resume.usage_told;
  request.id = parsed->resume.id;
  request.call_id = call_.request_id;
  exchange_->record().request = request.id;
  request.resumption = parsed->resume.For(0, request.n);
  exchange_->record().model = request.model->name;
  if (path_.place == KservePlace::kGenerateStream) {
    silence_.expires_after(options_.silence_max);
    silence_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      const std::shared_ptr<KserveCall> self = weak.lock();
      if (!error && self != nullptr && !self->ended_ && !self->gone_) self->BeginStream();
    });
  }
  BelongTo(call_.principal, request);
  // The generation may end before Generate returns.
  auto generation = serving_.Generate(std::move(request), exchange_->strand(), shared_from_this());
  if (!ended_) generation_ = std::move(generation);
}

void KserveCall::Fail(const absl::Status& status) {
  exchange_->record().error = Message(status);
  exchange_->Reply(KserveError(status));
}

absl::Status KserveCall::OnDelta(GenerationDelta delta) {
  if (!stream_) {
    Gather(std::move(delta), answer_);
    return absl::OkStatus();
  }
  if (cursor_->Knows(delta)) return absl::OkStatus();
  absl::Status pushed = deltas_.Push(std::move(delta));
  BeginStream();
  exchange_->Wake();
  return pushed;
}

void KserveCall::BeginStream() {
  if (exchange_->streaming()) return;
  silence_.cancel();
  exchange_->Stream({.status = 200,
                     .content_type = "text/event-stream; charset=utf-8",
                     .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}},
                    shared_from_this());
}

void KserveCall::OnEnd(const absl::Status& status, const GenerationUsage& usage) {
  ended_ = true;
  end_ = status;
  usage_ = usage;
  generation_ = nullptr;
  silence_.cancel();
  HttpRecord& record = exchange_->record();
  record.prompt_tokens = usage.prompt_tokens;
  record.completion_tokens = usage.completion_tokens;
  if (record.error.empty() && !status.ok()) record.error = Message(status);
  if (gone_) return;
  if (status.ok() && path_.place == KservePlace::kGenerateStream) {
    if (!stream_) end_ = deltas_.Push(std::move(answer_));
    BeginStream();
  }
  if (exchange_->streaming()) return exchange_->Wake();
  exchange_->Reply(status.ok() ? WholeReply() : KserveError(status));
}

HttpReply KserveCall::WholeReply() const {
  inference::ModelInferResponse response = KserveResponse(info_, answer_);
  AddUsage(usage_, response);
  if (path_.place == KservePlace::kInfer) return InferReply(response, info_.outputs);
  return {.body = GenerateBody(response)};
}

void KserveCall::AppendEvent(std::string& out, const GenerationDelta& delta, bool last) {
  inference::ModelInferResponse response = KserveResponse(info_, delta);
  if (last) {
    AddUsage(usage_, response);
    usage_told_ = true;
  }
  cursor_->Advance(delta);
  out += "id: ";
  cursor_->AppendToken(out, last);
  absl::StrAppend(&out, "\ndata: ", GenerateBody(response), "\n\n");
}

// The last delta and the end come in one breath, so that the usage rides on the last event.
BodySource::State KserveCall::Pull(std::string& out) {
  while (auto delta = deltas_.Pop()) {
    AppendEvent(out, *delta, ended_ && end_.ok() && deltas_.empty());
  }
  if (!ended_) return State::kMore;
  if (end_.ok()) {
    // A client that came back may have had all but the usage.
    if (!usage_told_) AppendEvent(out, {}, /*last=*/true);
    return State::kEnd;
  }
  absl::StrAppend(&out, "data: ", KserveErrorBody(Message(end_)), "\n\n");
  return State::kBroken;
}

}  // namespace fathom::master
