#include "benchmarks/router_sim/sim_engine.h"

#include <utility>

namespace fathom::router_sim {
namespace {

worker::KvSpec SpecOf(const EngineShape& shape) {
  worker::KvSpec spec;
  spec.block_tokens = shape.block_tokens;
  spec.groups.push_back({worker::KvGroupKind::kFull, {0}, 0, 1, 0});
  return spec;
}

}  // namespace

SimEngine::SimEngine(const EngineShape& shape, std::string kv_scope, std::string cache_salt)
    : shape_(shape), scope_(MakePrefixScope(cache_salt, kv_scope, kNoAdapter)) {
  const worker::KvPlan plan{{shape.num_blocks}, shape.max_sequences, shape.num_blocks};
  kv_ = std::make_unique<worker::KvBlocks>(SpecOf(shape), plan, /*prefix_cache=*/true);
  scheduler_ = std::make_unique<worker::Scheduler>(
      worker::SchedulerLimits{shape.max_sequences, shape.step_tokens, shape.max_sequences},
      kv_.get());
}

SimEngine::~SimEngine() {
  for (auto& [state, request] : requests_) scheduler_->End(state->sequences[0].get(), serial_);
  scheduler_->Retire(serial_);
  scheduler_.reset();  // its sequences hold blocks
}

void SimEngine::Submit(EngineWork work) {
  auto request = std::make_unique<Request>();
  request->id = work.id;
  request->output = std::move(work.output);
  worker::RequestState& state = request->state;
  state.prefix_scope = scope_;
  state.request.stop.max_tokens = static_cast<int32_t>(request->output.size());
  auto sequence = std::make_unique<worker::Sequence>();
  sequence->request = &state;
  sequence->prompt_len = static_cast<int32_t>(work.prompt.size());
  sequence->max_len = sequence->prompt_len + state.request.stop.max_tokens;
  sequence->tokens = std::move(work.prompt);
  state.sequences.push_back(std::move(sequence));
  scheduler_->Enqueue(&state);
  requests_.emplace(&state, std::move(request));
}

std::optional<int64_t> SimEngine::Begin(int64_t now_ns) {
  const uint64_t retired = serial_++;
  scheduler_->Plan(serial_, retired, &plan_);
  if (plan_.chunks.empty()) return std::nullopt;
  worker::ForwardInput input;
  for (const worker::PlannedChunk& chunk : plan_.chunks) {
    input.sequences.push_back({.query_len = chunk.count, .context_len = chunk.first});
  }
  busy_ = true;
  began_ns_ = now_ns;
  return now_ns + shape_.time.StepNs(input);
}

std::vector<EngineEvent> SimEngine::Finish(int64_t now_ns) {
  std::vector<EngineEvent> events;
  std::vector<worker::RequestState*> gone;
  int64_t prompt_tokens = 0;
  for (const worker::PlannedChunk& chunk : plan_.chunks) {
    worker::Sequence* s = chunk.sequence;
    const Request& request = *requests_.at(s->request);
    s->computed += chunk.count;
    computed_tokens_ += chunk.count;
    if (chunk.count > 1 || !chunk.samples) prompt_tokens += chunk.count;
    if (chunk.samples) {
      --s->pending;
      s->tokens.push_back(request.output[static_cast<size_t>(s->num_output())]);
      ++output_tokens_;
    }
    kv_->Commit(s);
    if (!chunk.samples) continue;
    const bool ended = static_cast<int32_t>(s->tokens.size()) >= s->max_len;
    if (s->num_output() == 1 || ended) {
      events.push_back({.id = request.id,
                        .first_token = s->num_output() == 1,
                        .ended = ended,
                        .cached_tokens = s->cached_tokens.value_or(0)});
    }
    if (!ended) continue;
    scheduler_->End(s, serial_);
    gone.push_back(s->request);
  }
  scheduler_->Retire(serial_);
  for (worker::RequestState* state : gone) requests_.erase(state);
  busy_ = false;
  busy_ns_ += now_ns - began_ns_;
  if (prompt_tokens == 0) decode_timer_.Observe(plan_.num_tokens, now_ns - began_ns_);
  prefill_.Observe(prompt_tokens, now_ns - began_ns_);
  return events;
}

void SimEngine::Tell(int64_t now_ns, master::WorkerInfo* info) {
  info->figures.waiting = scheduler_->num_waiting();
  info->figures.running = scheduler_->num_running();
  info->figures.free_blocks = kv_->num_available();
  info->figures.total_blocks = kv_->num_total();
  info->figures.tokens_per_second = static_cast<float>(rate_.Update(output_tokens_, now_ns));
  info->figures.queued_tokens = scheduler_->queued_tokens();
  info->figures.prefill_tokens_per_second = static_cast<float>(prefill_.TokensPerSecond());
  info->figures.step_seconds = static_cast<float>(decode_timer_.StepNs()) * 1e-9F;
  info->heard_ns = now_ns;
}

}  // namespace fathom::router_sim
