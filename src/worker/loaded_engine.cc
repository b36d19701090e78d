#include "worker/loaded_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

// With kWarmUpTokens less than a block, so that it leaves none in the prefix cache.
constexpr int32_t kPromptTokens = 8;
constexpr absl::Duration kForgetMax = absl::Seconds(10);

absl::Status HowItEnded(const SequenceOutput& output) {
  if (output.finish == FinishReason::kLength || output.finish == FinishReason::kStop) {
    return absl::OkStatus();
  }
  if (output.finish == FinishReason::kCancelled) return absl::CancelledError("the worker stops");
  return absl::InternalError(absl::StrCat("the first request failed: ", output.error));
}

}  // namespace

void LoadedEngine::Outlet::OnStep(std::vector<SequenceOutput> outputs) {
  {
    const std::lock_guard lock(mutex_);
    if (!open_) {
      for (const SequenceOutput& output : outputs) {
        if (output.finish != FinishReason::kNone) first_ = HowItEnded(output);
      }
      changed_.notify_all();
      return;
    }
  }
  sink_->OnStep(std::move(outputs));
}

void LoadedEngine::Outlet::OnDead(const absl::Status& reason) {
  {
    const std::lock_guard lock(mutex_);
    first_ = absl::InternalError(reason.message());
    changed_.notify_all();
  }
  sink_->OnDead(reason);
}

absl::Status LoadedEngine::Outlet::AwaitFirst(absl::Duration limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, absl::ToChronoNanoseconds(limit), [this] { return first_.has_value(); });
  open_ = true;
  return first_.value_or(absl::DeadlineExceededError("the first request does not end"));
}

absl::StatusOr<std::shared_ptr<LoadedEngine>> LoadedEngine::Create(
    EngineOptions options, std::unique_ptr<Executor> executor,
    std::shared_ptr<const GrammarFactory> grammars, std::string salt, OutputSink* sink,
    const Clock* clock) {
  std::shared_ptr<LoadedEngine> made(
      new LoadedEngine(options.vocab_size, options.max_context, std::move(salt), sink));
  ASSIGN_OR_RETURN(made->engine_, Engine::Create(std::move(options), std::move(executor),
                                                 std::move(grammars), &made->outlet_, clock));
  return made;
}

absl::Status LoadedEngine::WarmUp() {
  EngineRequest request;
  request.id = "warm-up";
  const int32_t prompt = std::min(kPromptTokens, max_context_ - 1);
  for (int32_t i = 0; i < prompt; ++i) request.prompt.push_back((37 * i + 11) % vocab_size_);
  request.choices = {{.index = 0, .tokens = {}}};
  request.stop.max_tokens = kWarmUpTokens;
  request.stop.ignore_eos = true;
  request.cache_salt = salt_;
  RETURN_IF_ERROR(engine_->Submit(std::move(request)));
  RETURN_IF_ERROR(outlet_.AwaitFirst(kWarmUpMax));
  engine_->ForgetFigures();
  const absl::Time limit = absl::Now() + kForgetMax;
  while (absl::Now() < limit) {
    RETURN_IF_ERROR(engine_->Health());
    const EngineStats stats = engine_->Stats();
    if (stats.steps == 0 && stats.running + stats.waiting == 0) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::DeadlineExceededError("the engine does not come to rest");
}

}  // namespace fathom::worker
