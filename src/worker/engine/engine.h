#pragma once

// The engine: token ids in, token ids out. Continuous batching over a paged KV cache with prefix
// reuse, chunked prefill and preemption, one step ahead of reading results. The engine thread owns
// sequences, blocks and the plan, without locks; inbox and outbox are bounded.
//
// Every request that Submit accepted ends exactly once per choice: an output whose `finish` is not
// kNone. Only after OnDead may requests stay without an end.
//
// Thread safety: every method may be called from any thread; outputs come on the engine thread.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/engine/cache_news.h"
#include "worker/engine/executor.h"
#include "worker/engine/request.h"
#include "worker/model/kv_spec.h"
#include "worker/model/model.h"
#include "worker/sampling/grammar.h"

namespace fathom::worker {

struct EngineOptions {
  // What the model is.
  int32_t vocab_size = 0;
  int32_t max_context = 0;
  std::vector<TokenId> eos_token_ids;
  std::string kv_scope;  // KvScope of the model and its KV
  KvSpec kv;
  KvPlan plan;

  // Limits of one step; the model was loaded with the same.
  int32_t max_step_tokens = 2048;
  int32_t max_logit_rows = 256;

  int32_t max_waiting = 1024;  // requests accepted and not yet computing
  bool prefix_cache = true;
  std::string prefix_secret;  // makes a secret of what a master sends for a cache salt and is none
  int32_t grammar_threads = 1;
};

// The part of the options that follows from a model and its plan.
EngineOptions OptionsFor(const Model& model, const KvPlan& plan);

class Engine {
 public:
  // Starts the engine thread. `grammars` may be null: requests with a grammar are then refused.
  // `sink` and `clock` outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      EngineOptions options, std::unique_ptr<Executor> executor,
      std::shared_ptr<const GrammarFactory> grammars, OutputSink* sink, const Clock* clock);
  // Stops as Stop() does.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // INVALID_ARGUMENT: never possible here. RESOURCE_EXHAUSTED: too many wait, try later or
  // elsewhere. ALREADY_EXISTS: this attempt or a higher one is here. UNAVAILABLE: draining,
  // stopped or dead. On OK outputs will come, possibly before this returns.
  absl::Status Submit(EngineRequest request);

  // Ends these choices (all when empty) of attempts up to `attempt` with kCancelled; unknown ones
  // are ignored.
  void Cancel(const std::string& id, uint32_t attempt, std::vector<int32_t> choices);

  // Refuses new work; what is here goes on. Drained when Stats() shows nothing waiting or running.
  void Drain();

  // Ends everything that is here with kCancelled and joins the thread. Idempotent.
  void Stop();

  EngineStats Stats() const;
  // Soon, counts and rates start anew, as if nothing had run yet.
  void ForgetFigures();
  // What changed in the prefix cache since the last call.
  CacheChanges TakeCacheChanges();
  // The first fatal error, for good.
  absl::Status Health() const;

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::worker
