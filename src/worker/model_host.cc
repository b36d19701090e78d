#include "worker/model_host.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/fault_stack.h"
#include "common/logging.h"
#include "common/strings.h"

namespace fathom::worker {
namespace {

constexpr int64_t kQuietNs = 1'000'000'000;
constexpr int64_t kProgressNs = 300'000'000;
constexpr int64_t kMeasureNs = 1'000'000'000;
constexpr absl::Duration kWatch = absl::Milliseconds(100);
// A process that was stopped and goes on finds its engine late at first.
constexpr int64_t kLateNs = 500'000'000;
constexpr size_t kNameMax = 256;
constexpr size_t kPathMax = 4096;
constexpr size_t kErrorMax = 4096;

absl::Status CheckOrder(const LoadOrder& order) {
  if (order.model.empty() || order.model.size() > kNameMax) {
    return absl::InvalidArgumentError("a model's name has 1 to 256 bytes");
  }
  if (order.path.empty() || order.path.size() > kPathMax) {
    return absl::InvalidArgumentError("a model's folder has 1 to 4096 bytes");
  }
  if (order.kv_cache_bytes < 0) {
    return absl::InvalidArgumentError("the KV cache has less than no bytes");
  }
  return absl::OkStatus();
}

void Add(const EngineStats& stats, EngineStats* sum) {
  sum->steps += stats.steps;
  sum->output_tokens += stats.output_tokens;
  sum->prompt_tokens += stats.prompt_tokens;
  sum->cached_tokens += stats.cached_tokens;
  sum->preemptions += stats.preemptions;
}

absl::Status HealthOf(const ServingEngine& engine, const Clock& clock) {
  absl::Status health = engine.Health();
  if (!health.ok()) return health;
  const int64_t deadline_ns = engine.Stats().step_deadline_ns;
  if (deadline_ns == 0 || clock.MonotonicNs() <= deadline_ns) return health;
  return absl::DeadlineExceededError(
      "the device does not answer: the engine's step is past its deadline");
}

}  // namespace

ModelHost::ModelHost(Options options) : options_(std::move(options)) {
  thread_ = std::thread([this] { Run(); });
}

ModelHost::~ModelHost() {
  Stop();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  thread_.join();
  for (const auto& [name, entry] : entries_) {
    if (entry.seat == nullptr) continue;
    const std::lock_guard lock(entry.seat->mutex);
    entry.seat->engine = nullptr;
  }
}

void ModelHost::Stop() {
  std::vector<std::shared_ptr<ServingEngine>> engines;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& [name, entry] : entries_) {
      if (entry.engine != nullptr) engines.push_back(entry.engine);
    }
    changed_.notify_all();
  }
  for (const auto& engine : engines) engine->Stop();
}

// ---- orders ----

void ModelHost::Load(LoadOrder order) {
  const absl::Status good = CheckOrder(order);
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(order.model);
  if (it != entries_.end() && it->second.state.phase() != v1::MODEL_PHASE_FAILED) {
    Entry& entry = it->second;
    if (entry.going) {
      if (good.ok()) entry.again = std::move(order);
    } else if (entry.state.phase() == v1::MODEL_PHASE_UNLOADING) {
      Tell(entry, v1::MODEL_PHASE_READY);
    } else {
      Tell(entry, entry.state.phase());
    }
    return;
  }
  if (!good.ok() || (it == entries_.end() && !MakeRoom())) {
    Entry refused;
    refused.state.set_model(order.model.substr(0, kNameMax));
    Fail(refused,
         good.ok() ? absl::ResourceExhaustedError("the worker has too many models") : good);
    if (it == entries_.end()) Tell(refused, v1::MODEL_PHASE_GONE);  // it is not remembered
    return;
  }
  const std::string name = order.model;
  Queue(entries_[name], std::move(order));
}

absl::Status ModelHost::LoadAndWait(LoadOrder order) {
  const std::string name = order.model;
  Load(std::move(order));
  std::unique_lock lock(mutex_);
  int64_t late_since_ns = 0;
  while (true) {
    const auto it = entries_.find(name);
    if (it == entries_.end()) return absl::CancelledError("the load was ended");
    const Entry& entry = it->second;
    if (entry.state.phase() == v1::MODEL_PHASE_READY) return absl::OkStatus();
    if (entry.state.phase() == v1::MODEL_PHASE_FAILED) {
      return {static_cast<absl::StatusCode>(entry.state.code()), entry.state.error()};
    }
    const int64_t now_ns = options_.clock->MonotonicNs();
    absl::Status health =
        entry.engine == nullptr ? absl::OkStatus() : HealthOf(*entry.engine, *options_.clock);
    if (!absl::IsDeadlineExceeded(health)) late_since_ns = now_ns;
    if (now_ns - late_since_ns > kLateNs) return health;
    changed_.wait_for(lock, absl::ToChronoNanoseconds(kWatch));
  }
}

void ModelHost::Unload(const std::string& model) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(model);
  if (it == entries_.end()) return;
  Entry& entry = it->second;
  if (entry.going) {
    entry.again.reset();
    return;
  }
  switch (entry.state.phase()) {
    case v1::MODEL_PHASE_READY:
      entry.quiet_since_ns = 0;
      Tell(entry, v1::MODEL_PHASE_UNLOADING);
      break;
    case v1::MODEL_PHASE_UNLOADING:
      Tell(entry, v1::MODEL_PHASE_UNLOADING);
      break;
    case v1::MODEL_PHASE_FAILED:
      Gone(it);
      break;
    default:
      if (entry.queued) {
        std::erase_if(jobs_,
                      [&](const Job& job) { return job.model == model && job.engine == nullptr; });
        Gone(it);
      } else {
        entry.going = true;  // noticed by its load
      }
  }
}

void ModelHost::Look(int64_t now_ns, const std::function<bool(const std::string&)>& in_use) {
  const std::lock_guard lock(mutex_);
  for (auto& [name, entry] : entries_) {
    if (entry.going || entry.state.phase() != v1::MODEL_PHASE_UNLOADING) continue;
    const EngineStats stats = entry.engine->Stats();
    if (stats.waiting + stats.running > 0 || in_use(name)) {
      entry.quiet_since_ns = 0;
    } else if (entry.quiet_since_ns == 0) {
      entry.quiet_since_ns = now_ns;
    } else if (now_ns - entry.quiet_since_ns >= kQuietNs) {
      Leave(entry);
    }
  }
}

// ---- what there is ----

absl::Status ModelHost::Health() const {
  const std::lock_guard lock(mutex_);
  absl::Status health = health_;
  for (const auto& [name, entry] : entries_) {
    if (health.ok() && entry.engine != nullptr) health = HealthOf(*entry.engine, *options_.clock);
  }
  return health;
}

EngineStats ModelHost::Totals() const {
  const std::lock_guard lock(mutex_);
  EngineStats sum = past_;
  for (const auto& [name, entry] : entries_) {
    if (entry.engine == nullptr || entry.state.phase() == v1::MODEL_PHASE_WARMING) continue;
    const EngineStats stats = entry.engine->Stats();
    Add(stats, &sum);
    sum.waiting += stats.waiting;
    sum.running += stats.running;
    sum.free_blocks += stats.free_blocks;
    sum.total_blocks += stats.total_blocks;
  }
  return sum;
}

std::array<int, v1::ModelPhase_ARRAYSIZE> ModelHost::CountPhases() const {
  std::array<int, v1::ModelPhase_ARRAYSIZE> counts{};
  const std::lock_guard lock(mutex_);
  for (const auto& [name, entry] : entries_) ++counts[entry.state.phase()];
  return counts;
}

EnginePort ModelHost::PortOf(std::shared_ptr<Seat> seat) {
  return {.submit =
              [seat](EngineRequest request) {
                const std::lock_guard lock(seat->mutex);
                return seat->engine != nullptr
                           ? seat->engine->Submit(std::move(request))
                           : absl::NotFoundError("this worker has no such model");
              },
          .cancel =
              [seat](const std::string& id, uint32_t attempt, std::vector<int32_t> choices) {
                const std::lock_guard lock(seat->mutex);
                if (seat->engine != nullptr) seat->engine->Cancel(id, attempt, std::move(choices));
              },
          .stats =
              [seat] {
                const std::lock_guard lock(seat->mutex);
                return seat->engine != nullptr ? seat->engine->Stats() : EngineStats{};
              },
          .cache_changes =
              [seat] {
                const std::lock_guard lock(seat->mutex);
                return seat->engine != nullptr ? seat->engine->TakeCacheChanges() : CacheChanges{};
              }};
}

// ---- changes ----

void ModelHost::Queue(Entry& entry, LoadOrder order) {
  entry = {};
  entry.state.set_model(order.model);
  entry.queued = true;
  jobs_.push_back({.model = order.model, .engine = nullptr});
  entry.order = std::move(order);
  Tell(entry, v1::MODEL_PHASE_LOADING);
  changed_.notify_all();
}

bool ModelHost::MakeRoom() {
  if (entries_.size() < kModelsMax) return true;
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->second.failed == 0) continue;
    if (oldest == entries_.end() || it->second.failed < oldest->second.failed) oldest = it;
  }
  if (oldest == entries_.end()) return false;
  Gone(oldest);
  return true;
}

void ModelHost::Tell(Entry& entry, v1::ModelPhase phase) {
  if (entry.state.phase() != phase) {
    LogInfo("models", "a model's phase",
            {{"labels.model", entry.state.model()},
             {"labels.phase", v1::ModelPhase_Name(phase).substr(sizeof("MODEL_PHASE_") - 1)}});
  }
  entry.state.set_phase(phase);
  options_.tell({.state = entry.state, .engine = std::nullopt});
  changed_.notify_all();
}

void ModelHost::Fail(Entry& entry, const absl::Status& status) {
  LogError(
      "models", "a model cannot be loaded",
      {{"labels.model", entry.state.model()}, {"error.message", std::string(Message(status))}});
  entry.failed = ++failures_;
  entry.state.set_failures(entry.failed);
  entry.state.set_code(static_cast<int32_t>(status.code()));
  entry.state.set_error(std::string(Message(status)).substr(0, kErrorMax));
  Tell(entry, v1::MODEL_PHASE_FAILED);
}

// Nothing is in use of it any more: its engine ends where that may take its time.
void ModelHost::Leave(Entry& entry) {
  entry.going = true;
  {
    const std::lock_guard lock(entry.seat->mutex);
    entry.seat->engine = nullptr;
  }
  jobs_.push_back({.model = entry.order.model, .engine = entry.engine});
  changed_.notify_all();
}

void ModelHost::Gone(Entries::iterator it) {
  std::optional<LoadOrder> again = std::move(it->second.again);
  Tell(it->second, v1::MODEL_PHASE_GONE);
  if (again) return Queue(it->second, *std::move(again));
  entries_.erase(it);
}

// ---- the host's thread ----

void ModelHost::Run() {
  const FaultStack fault_stack;
  MeasureMemory(/*released=*/false);
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      const auto work = [this] { return ending_ || (!stopping_ && !jobs_.empty()); };
      if (!changed_.wait_for(lock, std::chrono::nanoseconds(kMeasureNs), work)) {
        lock.unlock();
        MeasureMemory(/*released=*/false);
        continue;
      }
      if (ending_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    if (job.engine == nullptr) {
      RunLoad(job.model);
    } else {
      RunFree(std::move(job));
    }
  }
}

void ModelHost::MeasureMemory(bool released) {
  const int64_t now_ns = options_.clock->MonotonicNs();
  if (!options_.free_memory || (!released && now_ns - measured_ns_ < kMeasureNs)) return;
  measured_ns_ = now_ns;
  free_memory_ = options_.free_memory(released);
}

absl::Status ModelHost::OnProgress(const std::string& model, int64_t done, int64_t total) {
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(model);
    if (stopping_ || entry.going) return absl::CancelledError("the load was ended");
    const int64_t now_ns = options_.clock->MonotonicNs();
    if (now_ns - told_progress_ns_ < kProgressNs) return absl::OkStatus();
    told_progress_ns_ = now_ns;
    entry.state.set_bytes_done(done);
    entry.state.set_bytes_total(total);
    Tell(entry, v1::MODEL_PHASE_LOADING);
  }
  MeasureMemory(/*released=*/false);
  return absl::OkStatus();
}

void ModelHost::RunLoad(const std::string& model) {
  LoadOrder order;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(model);
    entry.queued = false;
    order = entry.order;
  }
  absl::StatusOr<Loaded> loaded = options_.load(
      order, [&](int64_t done, int64_t total) { return OnProgress(model, done, total); });
  absl::Status status = loaded.status();
  if (loaded.ok()) {
    {
      const std::lock_guard lock(mutex_);
      Entry& entry = entries_.at(model);
      if (!entry.going) {
        entry.engine = loaded->engine;
        Tell(entry, v1::MODEL_PHASE_WARMING);
      }
    }
    status = stopping_ ? absl::CancelledError("the worker stops") : loaded->engine->WarmUp();
  }
  {
    const std::lock_guard lock(mutex_);
    const auto it = entries_.find(model);
    Entry& entry = it->second;
    if (status.ok() && !entry.going) {
      entry.seat = std::make_shared<Seat>();
      entry.seat->engine = entry.engine.get();
      entry.state.clear_bytes_done();
      entry.state.clear_bytes_total();
      *entry.state.mutable_loaded() = loaded->model;
      entry.state.set_memory_bytes(loaded->memory_bytes);
      entry.state.set_phase(v1::MODEL_PHASE_READY);
      options_.tell(
          {.state = entry.state, .engine = PortOf(entry.seat), .capacity = loaded->capacity});
      changed_.notify_all();
    } else {
      if (loaded.ok() && health_.ok()) health_ = loaded->engine->Health();
      entry.engine.reset();
      if (!entry.going && !stopping_) Fail(entry, status);
    }
  }
  loaded = absl::CancelledError();  // an engine that did not come to serve goes here
  MeasureMemory(/*released=*/true);
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(model);
  if (it != entries_.end() && it->second.going && it->second.engine == nullptr) Gone(it);
}

void ModelHost::RunFree(Job job) {
  job.engine->Stop();
  {
    const std::lock_guard lock(mutex_);
    Add(job.engine->Stats(), &past_);
    entries_.at(job.model).engine.reset();
  }
  job.engine.reset();
  MeasureMemory(/*released=*/true);
  const std::lock_guard lock(mutex_);
  Gone(entries_.find(job.model));
}

}  // namespace fathom::worker
