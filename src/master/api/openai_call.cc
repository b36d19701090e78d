#include "master/api/openai_call.h"

#include <boost/asio/post.hpp>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/caller.h"
#include "master/api/errors.h"
#include "master/api/quota_headers.h"
#include "master/api/resume_headers.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

// Larger ones are parsed on the CPU pool: a hop costs less than holding up an I/O thread.
constexpr size_t kInlineBodyBytes = 16 * 1024;

// Pieces of a call grow together.
void MergeToolCalls(std::vector<ToolCallDelta>& calls, std::vector<ToolCallDelta>&& pieces) {
  for (ToolCallDelta& piece : pieces) {
    if (!calls.empty() && calls.back().index == piece.index) {
      calls.back().arguments += piece.arguments;
    } else {
      calls.push_back(std::move(piece));
    }
  }
}

}  // namespace

class OpenAiCall::PromptSink final : public GenerationSink {
 public:
  PromptSink(std::shared_ptr<OpenAiCall> call, int32_t prompt)
      : call_(std::move(call)), prompt_(prompt) {}
  absl::Status OnDelta(GenerationDelta delta) override {
    return call_->OnDelta(prompt_, std::move(delta));
  }
  void OnEnd(const absl::Status& status, const GenerationUsage& usage) override {
    call_->OnEnd(status, usage);
  }

 private:
  const std::shared_ptr<OpenAiCall> call_;
  const int32_t prompt_;
};

OpenAiCall::OpenAiCall(OpenAiKind kind, Serving& serving, const OpenAiOptions& options,
                       HttpCall call, std::shared_ptr<HttpExchange> exchange)
    : kind_(kind),
      serving_(serving),
      options_(options),
      call_(std::move(call)),
      exchange_(std::move(exchange)),
      deltas_(options.client_backlog_bytes),
      silence_(exchange_->strand()) {}

void OpenAiCall::Start() {
  exchange_->OnGone([self = shared_from_this()](const absl::Status& reason) {
    self->gone_ = true;
    // The first reason is the real one: a client that was given up is also too slow.
    if (self->exchange_->record().error.empty()) self->exchange_->record().error = Message(reason);
    // The end of the last one clears the list.
    const auto generations = self->generations_;
    for (const auto& generation : generations) generation->Leave(reason);
  });
  if (call_.body.size() <= kInlineBodyBytes) return HandleParsed(Parse());
  const bool accepted = serving_.pool().Submit([self = shared_from_this()] {
    auto parsed = std::make_shared<absl::StatusOr<OpenAiRequest>>(self->Parse());
    boost::asio::post(self->exchange_->strand(),
                      [self, parsed] { self->HandleParsed(std::move(*parsed)); });
  });
  if (!accepted) {
    HandleParsed(WithRetryAfter(absl::ResourceExhaustedError("too many requests wait for parsing"),
                                absl::Seconds(1)));
  }
}

absl::StatusOr<OpenAiRequest> OpenAiCall::Parse() const {
  ASSIGN_OR_RETURN(const ResumeAsk ask, ReadResumeAsk(call_, call_.body));
  const ResumeKeys& keys = serving_.resume_keys();
  const RequestDraw draw = DrawOf(ask, keys, call_.principal, serving_.NewId());
  const CatalogPtr catalog = serving_.catalog();
  ASSIGN_OR_RETURN(OpenAiRequest parsed,
                   ParseOpenAiRequest(kind_, call_.body, *catalog, options_.bounds, draw.draw()));
  const size_t num_choices = parsed.generations.size() * parsed.generations.front().n;
  ASSIGN_OR_RETURN(parsed.resume,
                   PlanResumption(ask, keys, call_.principal, draw.id,
                                  absl::ToUnixSeconds(serving_.clock().Now()), num_choices));
  if (parsed.routed) parsed.resume.model = MarkOf(parsed.model->name);
  // Whole answers are told from the start.
  if (!parsed.stream) parsed.resume.resumes = false;
  return parsed;
}

void OpenAiCall::HandleParsed(absl::StatusOr<OpenAiRequest> parsed) {
  call_.body = std::string();
  if (gone_) return;
  if (!parsed.ok()) {
    exchange_->record().error = Message(parsed.status());
    exchange_->Reply(ErrorReply(parsed.status()));
    return;
  }
  stream_ = parsed->stream;
  only_echo_ = parsed->only_echo;
  choices_a_prompt_ = parsed->generations.front().n;
  const size_t num_choices = parsed->generations.size() * choices_a_prompt_;
  const std::string id = parsed->resume.id;
  reply_.emplace(
      OpenAiReplyInfo{.kind = kind_,
                      .id = absl::StrCat(kind_ == OpenAiKind::kChat ? "chatcmpl-" : "cmpl-", id),
                      .created = parsed->resume.created,
                      .model = parsed->model,
                      .include_usage = parsed->include_usage,
                      .logprobs = parsed->logprobs,
                      .top_logprobs = parsed->top_logprobs,
                      .prompt_logprobs = parsed->prompt_logprobs,
                      .resume = parsed->resume},
      num_choices);
  if (!stream_) choices_.resize(num_choices);
  for (const std::string& text : parsed->echo) echo_.insert(echo_.end(), choices_a_prompt_, text);
  exchange_->record().model = parsed->model->name;
  exchange_->record().request = id;

  if (stream_) {
    silence_.expires_after(options_.silence_max);
    silence_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
      const std::shared_ptr<OpenAiCall> self = weak.lock();
      if (!error && self != nullptr && !self->ended_ && !self->gone_) self->BeginStream();
    });
  }
  num_running_ = parsed->generations.size();
  for (size_t i = 0; i < parsed->generations.size(); ++i) {
    GenerationRequest& request = parsed->generations[i];
    request.id = i == 0 ? id : absl::StrCat(id, "-", i);
    request.call_id = call_.request_id;
    BelongTo(call_.principal, request);
    request.resumption = parsed->resume.For(i, choices_a_prompt_);
    auto sink = std::make_shared<PromptSink>(shared_from_this(), static_cast<int32_t>(i));
    auto generation = serving_.Generate(std::move(request), exchange_->strand(), std::move(sink));
    generations_.push_back(std::move(generation));
  }
  // One may have failed before the others were there to be cancelled.
  if (!failure_.ok()) CancelAll(failure_);
}

absl::Status OpenAiCall::OnDelta(int32_t prompt, GenerationDelta delta) {
  delta.choice += prompt * choices_a_prompt_;
  if (!echo_.empty()) Echo(prompt, delta);
  if (stream_) {
    if (reply_->Knows(delta)) return absl::OkStatus();
    absl::Status pushed = deltas_.Push(std::move(delta));
    BeginStream();
    exchange_->Wake();
    return pushed;
  }
  OpenAiChoice& choice = choices_[delta.choice];
  choice.text += delta.text;
  choice.reasoning += delta.reasoning;
  MergeToolCalls(choice.tool_calls, std::move(delta.tool_calls));
  choice.logprobs.insert(choice.logprobs.end(), std::make_move_iterator(delta.logprobs.begin()),
                         std::make_move_iterator(delta.logprobs.end()));
  if (reply_->info().prompt_logprobs && !delta.prompt_logprobs.empty()) {
    choice.prompt_logprobs = std::move(delta.prompt_logprobs);
  }
  choice.finish = delta.finish;
  return absl::OkStatus();
}

void OpenAiCall::Echo(int32_t prompt, GenerationDelta& delta) {
  if (only_echo_) {
    delta.text.clear();
    delta.logprobs.clear();
    if (delta.finish == FinishReason::kStop) delta.finish = FinishReason::kLength;
  }
  delta.text.insert(0, std::exchange(echo_[delta.choice], {}));
  if (stream_ || !reply_->info().logprobs || delta.prompt_tokens.empty()) return;
  // Known with choice 0; the others have the same prompt.
  for (int32_t i = 0; i < choices_a_prompt_; ++i) {
    OpenAiChoice& choice = choices_[prompt * choices_a_prompt_ + i];
    choice.first_token = delta.prompt_tokens.front();
    choice.logprobs.insert(choice.logprobs.begin(), delta.prompt_logprobs.begin(),
                           delta.prompt_logprobs.end());
  }
}

void OpenAiCall::BeginStream() {
  if (exchange_->streaming()) return;
  silence_.cancel();
  HttpReply head{.status = 200,
                 .content_type = "text/event-stream; charset=utf-8",
                 .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}};
  AddQuotaHeaders(serving_.quotas(), call_.principal, head);
  exchange_->Stream(std::move(head), shared_from_this());
}

void OpenAiCall::OnEnd(const absl::Status& status, const GenerationUsage& usage) {
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.completion_tokens += usage.completion_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.reasoning_tokens += usage.reasoning_tokens;
  if (only_echo_) usage_.completion_tokens = 0;
  if (!status.ok() && failure_.ok()) {
    failure_ = status;
    // One answer, one fate: the other prompts' work has no reader. A client that is gone may come
    // back for all of it.
    if (!gone_) CancelAll(status);
  }
  if (--num_running_ == 0) Finish();
}

void OpenAiCall::CancelAll(const absl::Status& status) {
  const auto generations = generations_;  // the end of the last one clears the list
  for (const std::shared_ptr<Generation>& generation : generations) generation->Cancel(status);
}

void OpenAiCall::Finish() {
  ended_ = true;
  silence_.cancel();
  generations_.clear();
  HttpRecord& record = exchange_->record();
  record.prompt_tokens = usage_.prompt_tokens;
  record.completion_tokens = usage_.completion_tokens;
  if (record.error.empty() && !failure_.ok()) record.error = Message(failure_);
  if (gone_) return;
  // A client that came back may have had all but the end.
  if (stream_ && failure_.ok()) BeginStream();
  if (exchange_->streaming()) return exchange_->Wake();
  HttpReply reply =
      failure_.ok() ? HttpReply{.body = reply_->Body(choices_, usage_)} : ErrorReply(failure_);
  AddQuotaHeaders(serving_.quotas(), call_.principal, reply);
  exchange_->Reply(std::move(reply));
}

BodySource::State OpenAiCall::Pull(std::string& out) {
  while (auto delta = deltas_.Pop()) reply_->AppendChunk(out, *delta);
  if (!ended_) return State::kMore;
  if (!failure_.ok()) {
    OpenAiReply::AppendError(out, failure_);
    return State::kBroken;
  }
  if (reply_->info().include_usage) reply_->AppendUsageChunk(out, usage_);
  OpenAiReply::AppendDone(out);
  return State::kEnd;
}

}  // namespace fathom::master
