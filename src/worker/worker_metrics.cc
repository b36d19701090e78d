#include "worker/worker_metrics.h"

#include <utility>

#include "common/metrics.h"

namespace fathom::worker {
namespace {

// The engine counts; Prometheus takes increments.
void Raise(prometheus::Counter& counter, double value) {
  const double more = value - counter.Value();
  if (more > 0) counter.Increment(more);
}

}  // namespace

WorkerMetrics::WorkerMetrics()
    : steps_(AddCounter("fathom_worker_steps_total", "Engine steps run.")),
      output_tokens_(AddCounter("fathom_worker_output_tokens_total", "Tokens generated.")),
      prompt_tokens_(
          AddCounter("fathom_worker_prompt_tokens_total", "Prompt tokens, cached ones included.")),
      cached_tokens_(AddCounter("fathom_worker_prefix_cached_tokens_total",
                                "Prompt tokens that came from the prefix cache.")),
      preemptions_(
          AddCounter("fathom_worker_preemptions_total", "Sequences put back for lack of blocks.")),
      running_(AddGauge("fathom_worker_running_sequences", "Sequences that run.")),
      waiting_(AddGauge("fathom_worker_waiting_sequences", "Sequences not yet computing.")),
      free_blocks_(AddGauge("fathom_worker_kv_free_blocks", "KV blocks free or evictable.")),
      total_blocks_(AddGauge("fathom_worker_kv_total_blocks", "KV blocks in all.")),
      kv_usage_(AddGauge("fathom_worker_kv_usage_ratio", "Part of the KV blocks in use, 0 to 1.")),
      masters_linked_(
          AddGauge("fathom_worker_masters_linked", "Masters this worker is linked to.")),
      requests_(AddGauge("fathom_worker_requests", "Requests taken on and not finished.")) {
  constexpr std::pair<v1::ModelPhase, const char*> kPhases[] = {
      {v1::MODEL_PHASE_LOADING, "loading"},
      {v1::MODEL_PHASE_WARMING, "warming"},
      {v1::MODEL_PHASE_READY, "ready"},
      {v1::MODEL_PHASE_UNLOADING, "unloading"},
      {v1::MODEL_PHASE_FAILED, "failed"}};
  for (const auto& [phase, name] : kPhases) {
    models_[phase] =
        &AddGauge("fathom_worker_models", "Models of this worker, by what becomes of them.",
                  {{"phase", name}});
  }
}

void WorkerMetrics::Refresh(const EngineStats& stats,
                            const std::array<int, v1::ModelPhase_ARRAYSIZE>& phases,
                            int masters_linked, int requests) {
  Raise(steps_, static_cast<double>(stats.steps));
  Raise(output_tokens_, static_cast<double>(stats.output_tokens));
  Raise(prompt_tokens_, static_cast<double>(stats.prompt_tokens));
  Raise(cached_tokens_, static_cast<double>(stats.cached_tokens));
  Raise(preemptions_, static_cast<double>(stats.preemptions));
  running_.Set(stats.running);
  waiting_.Set(stats.waiting);
  free_blocks_.Set(stats.free_blocks);
  total_blocks_.Set(stats.total_blocks);
  kv_usage_.Set(stats.total_blocks == 0
                    ? 0
                    : 1 - static_cast<double>(stats.free_blocks) / stats.total_blocks);
  masters_linked_.Set(masters_linked);
  requests_.Set(requests);
  for (size_t phase = 0; phase < phases.size(); ++phase) {
    if (models_[phase] != nullptr) models_[phase]->Set(phases[phase]);
  }
}

}  // namespace fathom::worker
