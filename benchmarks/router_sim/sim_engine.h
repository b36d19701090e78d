#pragma once

// A worker in virtual time: the engine's own scheduler and blocks, steps that take what a time
// model says, nothing computed. A step is planned when the one before has ended.
//
// Thread safety: none.

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "benchmarks/sim_worker/time_model.h"
#include "master/fleet/fleet.h"
#include "worker/engine/kv_blocks.h"
#include "worker/engine/prefill_meter.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/step_timer.h"
#include "worker/rate_meter.h"

namespace fathom::router_sim {

struct EngineShape {
  worker::TimeModel time;
  int32_t num_blocks = 0;
  int32_t block_tokens = 16;
  int32_t max_sequences = 256;
  int32_t step_tokens = 2048;
};

struct EngineWork {
  uint64_t id = 0;
  std::vector<TokenId> prompt;
  std::vector<TokenId> output;  // what it will say
};

// What became of requests in a step.
struct EngineEvent {
  uint64_t id = 0;
  bool first_token = false;
  bool ended = false;
  int32_t cached_tokens = 0;  // with the first token
};

class SimEngine {
 public:
  SimEngine(const EngineShape& shape, std::string kv_scope, std::string cache_salt);
  ~SimEngine();

  void Submit(EngineWork work);
  // Plans a step and returns when it ends; nothing when there is nothing to do. Once, until Finish.
  std::optional<int64_t> Begin(int64_t now_ns);
  // The step has ended.
  std::vector<EngineEvent> Finish(int64_t now_ns);
  bool busy() const { return busy_; }

  // What its heartbeat would tell now.
  void Tell(int64_t now_ns, master::WorkerInfo* info);
  std::vector<worker::CacheChange> TakeCacheChanges() { return kv_->TakeChanges(); }

  int64_t computed_tokens() const { return computed_tokens_; }  // prompts and outputs
  int64_t busy_ns() const { return busy_ns_; }

 private:
  struct Request {
    worker::RequestState state;
    std::vector<TokenId> output;
    uint64_t id = 0;
  };

  const EngineShape shape_;
  const PrefixScope scope_;
  std::unique_ptr<worker::KvBlocks> kv_;
  std::unique_ptr<worker::Scheduler> scheduler_;
  std::unordered_map<worker::RequestState*, std::unique_ptr<Request>> requests_;
  worker::StepPlan plan_;
  uint64_t serial_ = 0;
  bool busy_ = false;
  int64_t began_ns_ = 0;
  worker::StepTimer decode_timer_;
  worker::PrefillMeter prefill_;
  worker::RateMeter rate_;
  int64_t output_tokens_ = 0;
  int64_t computed_tokens_ = 0;
  int64_t busy_ns_ = 0;
};

}  // namespace fathom::router_sim
