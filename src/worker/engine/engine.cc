#include "worker/engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/block_hash.h"
#include "common/fault_stack.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/engine/engine_core.h"
#include "worker/engine/grammar_pool.h"
#include "worker/engine/stats_board.h"
#include "worker/engine/validate.h"

namespace fathom::worker {

EngineOptions OptionsFor(const Model& model, const KvPlan& plan) {
  EngineOptions o;
  o.vocab_size = model.config().vocab_size;
  o.max_context = static_cast<int32_t>(
      std::min<int64_t>(model.config().max_context,
                        int64_t{plan.max_blocks_per_sequence} * model.kv_spec().block_tokens));
  o.eos_token_ids = model.config().eos_token_ids;
  o.kv_scope = KvScope(model.config().digest, Name(model.kv_spec().dtype));
  o.kv = model.kv_spec();
  o.plan = plan;
  return o;
}

class Engine::Impl {
 public:
  Impl(EngineOptions options, std::unique_ptr<Executor> executor,
       std::shared_ptr<const GrammarFactory> grammars, OutputSink* sink, const Clock* clock)
      : options_(std::move(options)),
        executor_(std::move(executor)),
        sink_(sink),
        clock_(clock),
        mask_words_(grammars == nullptr ? 0 : grammars->mask_words()) {
    if (grammars != nullptr) {
      const auto done = [this](const std::string& id, uint32_t attempt,
                               GrammarPool::Result result) {
        const std::lock_guard lock(mutex_);
        mail_.compiled.push_back({id, attempt, std::move(result)});
        wake_.notify_one();
      };
      grammars_ = std::make_unique<GrammarPool>(std::move(grammars), options_.grammar_threads,
                                                options_.max_waiting, done);
    }
    // Before anyone can ask: figures of an empty engine.
    EngineStats stats;
    stats.state = EngineState::kReady;
    stats.total_blocks = stats.free_blocks =
        *std::min_element(options_.plan.num_blocks.begin(), options_.plan.num_blocks.end());
    board_.Publish(stats);
    thread_ = std::thread([this] { Run(); });
    executor_->WhenLost([this](const absl::Status& reason) {
      const std::lock_guard lock(mutex_);
      lost_ = reason;
      wake_.notify_one();
    });
  }

  ~Impl() {
    Stop();
    executor_->WhenLost(nullptr);
  }

  absl::Status Submit(EngineRequest request) {
    RETURN_IF_ERROR(ValidateRequest(request, options_, grammars_ != nullptr));
    const std::lock_guard lock(mutex_);
    RETURN_IF_ERROR(health_);
    if (stopping_) return absl::UnavailableError("the engine is stopped");
    if (draining_) return absl::UnavailableError("the engine is draining");
    if (num_waiting_ + in_transit_ + mail_.requests.size() >=
        static_cast<size_t>(options_.max_waiting)) {
      return absl::ResourceExhaustedError("too many requests wait");
    }
    const auto [it, added] = attempts_.try_emplace(request.id, request.attempt);
    if (!added && it->second >= request.attempt) {
      return absl::AlreadyExistsError("this attempt of the request, or a higher one, is here");
    }
    it->second = request.attempt;
    mail_.requests.push_back(std::move(request));
    wake_.notify_one();
    return absl::OkStatus();
  }

  void Cancel(const std::string& id, uint32_t attempt, std::vector<int32_t> choices) {
    const std::lock_guard lock(mutex_);
    if (!attempts_.contains(id)) return;
    mail_.cancels.push_back({id, attempt, std::move(choices), mail_.requests.size()});
    wake_.notify_one();
  }

  void Drain() {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    wake_.notify_one();
  }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake_.notify_one();
    }
    const std::lock_guard lock(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  EngineStats Stats() const {
    const std::lock_guard lock(mutex_);
    EngineStats stats = board_.Read();
    stats.waiting += static_cast<int32_t>(mail_.requests.size() + in_transit_);
    for (const EngineRequest& request : mail_.requests) {
      stats.queued_tokens += static_cast<int64_t>(request.prompt.size());
    }
    return stats;
  }

  void ForgetFigures() {
    const std::lock_guard lock(mutex_);
    mail_.forget_figures = true;
    wake_.notify_one();
  }

  CacheChanges TakeCacheChanges() { return board_.cache_news().Take(); }

  absl::Status Health() const {
    const std::lock_guard lock(mutex_);
    return health_;
  }

 private:
  struct CancelOrder {
    std::string id;
    uint32_t attempt = 0;
    std::vector<int32_t> choices;
    size_t after = 0;  // requests of the same mail that came before it
  };
  struct Compiled {
    std::string id;
    uint32_t attempt = 0;
    GrammarPool::Result grammar;
  };
  struct Mail {
    std::vector<EngineRequest> requests;
    std::vector<CancelOrder> cancels;
    std::vector<Compiled> compiled;
    bool forget_figures = false;
    bool empty() const {
      return requests.empty() && cancels.empty() && compiled.empty() && !forget_figures;
    }
  };

  // ---- engine thread ----

  void Run() {
    const FaultStack fault_stack;
    std::optional<EngineCore> core;
    core.emplace(options_, executor_.get(), mask_words_, sink_, clock_, &board_);
    while (Receive(&*core)) {
      if (!device_lost_.ok()) return Die(&*core, device_lost_);
      const absl::StatusOr<bool> progressed = core->Step();
      if (!progressed.ok()) return Die(&*core, progressed.status());
      Settle(&*core);
      if (!*progressed) Idle(&*core);
    }
    core->CancelAll();
    core->Flush();
    Settle(&*core);
  }

  // Takes the mail. False: stop.
  bool Receive(EngineCore* core) {
    Mail mail;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return false;
      device_lost_ = lost_;
      std::swap(mail, mail_);
      in_transit_ = mail.requests.size();
      state_ = draining_ ? EngineState::kDraining : EngineState::kReady;
    }
    if (mail.forget_figures) core->ForgetFigures();
    auto cancel = mail.cancels.begin();
    const auto cancel_up_to = [&](size_t taken) {
      for (; cancel != mail.cancels.end() && cancel->after <= taken; ++cancel) {
        core->Cancel(cancel->id, cancel->attempt, cancel->choices);
      }
    };
    for (size_t i = 0; i < mail.requests.size(); ++i) {
      cancel_up_to(i);
      EngineRequest& request = mail.requests[i];
      if (request.grammar.has_value()) {
        grammars_->Compile(request.id, request.attempt, *request.grammar);
      }
      core->Add(std::move(request));
    }
    cancel_up_to(mail.requests.size());
    for (Compiled& c : mail.compiled) core->OnCompiled(c.id, c.attempt, std::move(c.grammar));
    return true;
  }

  // Tells the other threads what has ended and how things stand.
  void Settle(EngineCore* core) {
    core->Publish(state_);
    const std::vector<std::pair<std::string, uint32_t>> ended = core->TakeEnded();
    const std::lock_guard lock(mutex_);
    num_waiting_ = core->num_waiting_requests();
    in_transit_ = 0;
    for (const auto& [id, attempt] : ended) {
      const auto it = attempts_.find(id);
      if (it != attempts_.end() && it->second == attempt) attempts_.erase(it);
    }
  }

  void Idle(EngineCore* core) {
    CheckNowAndThen(*core);
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return stopping_ || !mail_.empty() || Draining() || !lost_.ok(); };
    const int64_t deadline = core->NextDeadlineNs();
    if (deadline == INT64_MAX) {
      wake_.wait(lock, ready);
    } else {
      wake_.wait_for(
          lock, std::chrono::nanoseconds(std::max<int64_t>(deadline - clock_->MonotonicNs(), 0)),
          ready);
    }
  }
  // Costs a pass over all blocks: not in every pause of a trickle of requests.
  void CheckNowAndThen(const EngineCore& core) {
    constexpr int64_t kEveryNs = 1'000'000'000;
    const int64_t now = clock_->MonotonicNs();
    if (now - checked_ns_ < kEveryNs) return;
    checked_ns_ = now;
    core.CheckIntegrity();
  }

  // The state to publish has changed.
  bool Draining() const { return draining_ && state_ != EngineState::kDraining; }

  void Die(EngineCore* core, const absl::Status& reason) {
    LogError("engine", "the device is lost", {{"error.message", std::string(Message(reason))}});
    state_ = EngineState::kDead;
    core->Publish(state_);
    {
      const std::lock_guard lock(mutex_);
      health_ = absl::UnavailableError(reason.message());
    }
    sink_->OnDead(reason);
  }

  const EngineOptions options_;
  const std::unique_ptr<Executor> executor_;
  OutputSink* const sink_;
  const Clock* const clock_;
  const int32_t mask_words_;
  StatsBoard board_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // State below is protected by mutex_.
  Mail mail_;
  absl::flat_hash_map<std::string, uint32_t> attempts_;  // of requests that have not ended
  size_t num_waiting_ = 0;  // requests the core has and that do not compute yet
  size_t in_transit_ = 0;   // requests on their way to it
  bool draining_ = false;
  bool stopping_ = false;
  absl::Status health_;
  absl::Status lost_;  // while no step ran

  absl::Status device_lost_;                 // engine thread
  EngineState state_ = EngineState::kReady;  // engine thread
  int64_t checked_ns_ = 0;                   // engine thread
  std::mutex join_mutex_;
  std::thread thread_;
  std::unique_ptr<GrammarPool> grammars_;  // goes first: its threads write to mail_
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    EngineOptions options, std::unique_ptr<Executor> executor,
    std::shared_ptr<const GrammarFactory> grammars, OutputSink* sink, const Clock* clock) {
  RETURN_IF_ERROR(ValidateOptions(options));
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(
      std::move(options), std::move(executor), std::move(grammars), sink, clock)));
}

absl::Status Engine::Submit(EngineRequest request) { return impl_->Submit(std::move(request)); }
void Engine::Cancel(const std::string& id, uint32_t attempt, std::vector<int32_t> choices) {
  impl_->Cancel(id, attempt, std::move(choices));
}
void Engine::Drain() { impl_->Drain(); }
void Engine::Stop() { impl_->Stop(); }
EngineStats Engine::Stats() const { return impl_->Stats(); }
void Engine::ForgetFigures() { impl_->ForgetFigures(); }
CacheChanges Engine::TakeCacheChanges() { return impl_->TakeCacheChanges(); }
absl::Status Engine::Health() const { return impl_->Health(); }

}  // namespace fathom::worker
