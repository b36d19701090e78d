#pragma once

// The models in a worker's memory, each with an engine of its own: loads and unloads them as
// masters order, and says how each fares. Loads run on one thread of the host's, one after the
// other, in the order in which they were asked for; nothing else here waits for one.
//
// A model goes through LOADING, WARMING (its engine runs a request of the worker's own) and READY,
// or ends in FAILED, which stays known until it is tried again or unloaded. One that is to be
// unloaded serves on while it is in use, and is GONE once it has not been for a second and its
// memory is free again.
//
// Thread safety: every method may be called from any thread; Load, Unload and Look on one at a time
// (the link's), Stop and the destructor on the owner's.
//
// Invariants:
//   1. Every phase of a model is told, in order; it serves from READY to GONE and at no other time.
//   2. There are at most kModelsMax models, failed ones included: those give way, longest failed
//      first.
//   3. An engine goes on the host's thread alone, where it may take its time, and with it all its
//      memory.

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "fathom/v1/link.pb.h"
#include "worker/worker_port.h"

namespace fathom::worker {

// What to load.
struct LoadOrder {
  std::string model;           // the name it is served under
  std::string path;            // a folder in Hugging Face layout
  int64_t kv_cache_bytes = 0;  // 0: as the worker is configured, or else what is free
  std::string config_digest;   // SHA-256 in hex that it must have; empty: any
  std::string tokenizer_digest;
  std::string dummy_shape;  // random weights of that shape instead of its own
};

// A loaded model with what runs it. Its destructor frees all it took.
class ServingEngine {
 public:
  virtual ~ServingEngine() = default;

  // Runs a request of the worker's own, of which no trace is left: what else is put out goes to
  // masters, and figures begin after it. DEADLINE_EXCEEDED when it does not end.
  virtual absl::Status WarmUp() = 0;
  // As Engine's.
  virtual absl::Status Submit(EngineRequest request) = 0;
  virtual void Cancel(const std::string& id, uint32_t attempt, std::vector<int32_t> choices) = 0;
  virtual void Stop() = 0;
  virtual EngineStats Stats() const = 0;
  virtual CacheChanges TakeCacheChanges() = 0;
  virtual absl::Status Health() const = 0;
};

struct Loaded {
  std::shared_ptr<ServingEngine> engine;
  v1::LoadedModel model;
  int64_t capacity = 0;      // token cost that masters may have in flight, in sum
  int64_t memory_bytes = 0;  // with its KV cache
};

class ModelHost {
 public:
  static constexpr size_t kModelsMax = 64;

  // How far the weights have come, of how many bytes (0: not known); an error ends the loading.
  using Progress = std::function<absl::Status(int64_t done, int64_t total)>;
  struct Options {
    // On the host's thread; may take minutes.
    std::function<absl::StatusOr<Loaded>(const LoadOrder&, const Progress&)> load;
    // Gets every change of a phase. Must not block, nor call back.
    std::function<void(ModelNews)> tell;
    // Memory for further models: asked on the host's thread once a second at most, and, with
    // `released`, when a model has come or gone.
    std::function<int64_t(bool released)> free_memory;
    const Clock* clock = Clock::Real();
  };

  explicit ModelHost(Options options);
  ~ModelHost();  // stops
  ModelHost(const ModelHost&) = delete;
  ModelHost& operator=(const ModelHost&) = delete;

  // Queues the load. A model that is there or on its way is told of again, one that is being
  // unloaded stays, one that failed is tried again.
  void Load(LoadOrder order);
  // As Load, and waits for READY or an error.
  absl::Status LoadAndWait(LoadOrder order);
  // Ends a load, forgets a failure, or lets a model go once it is out of use.
  void Unload(const std::string& model);
  // Lets those go that are to be unloaded and have been out of use for a second: `in_use` says
  // whether requests of a model are here, or wait at a master.
  void Look(int64_t now_ns, const std::function<bool(const std::string&)>& in_use);

  int64_t free_memory() const { return free_memory_; }
  // The fatal error of an engine, for good, or the lateness of one.
  absl::Status Health() const;
  // Sums over all engines, those that are gone included in what only grows.
  EngineStats Totals() const;
  // How many models are in each phase.
  std::array<int, v1::ModelPhase_ARRAYSIZE> CountPhases() const;

  // Ends all engines: what runs is cancelled. A load that runs is told to end. Idempotent.
  void Stop();

 private:
  // Between the link and an engine that may go.
  struct Seat {
    std::mutex mutex;
    ServingEngine* engine = nullptr;  // protected by mutex; null: it has left
  };
  struct Entry {
    LoadOrder order;
    v1::ModelState state;  // as told
    bool queued = false;   // its load has not begun
    std::shared_ptr<ServingEngine> engine;
    std::shared_ptr<Seat> seat;
    // It is on its way out, and the host's thread will say so; then it is loaded again if `again`.
    bool going = false;
    std::optional<LoadOrder> again;
    int64_t quiet_since_ns = 0;  // UNLOADING: 0 while it is in use
    uint64_t failed = 0;         // FAILED: the host's count of failures
  };
  // What the host's thread does next: loads the model, or frees `engine` of it.
  struct Job {
    std::string model;
    std::shared_ptr<ServingEngine> engine;
  };
  using Entries = std::map<std::string, Entry>;

  void Run();
  void RunLoad(const std::string& model);
  void RunFree(Job job);
  void MeasureMemory(bool released);
  absl::Status OnProgress(const std::string& model, int64_t done, int64_t total);
  static EnginePort PortOf(std::shared_ptr<Seat> seat);

  // mutex_ is held in all below.
  void Queue(Entry& entry, LoadOrder order);
  bool MakeRoom();
  void Tell(Entry& entry, v1::ModelPhase phase);
  void Fail(Entry& entry, const absl::Status& status);
  void Leave(Entry& entry);
  void Gone(Entries::iterator it);

  const Options options_;
  std::atomic<int64_t> free_memory_{0};
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // State below is protected by mutex_.
  Entries entries_;
  std::deque<Job> jobs_;
  bool ending_ = false;  // nobody asks for anything any more
  absl::Status health_;  // of an engine that died before it served
  EngineStats past_;     // of engines that are gone
  uint64_t failures_ = 0;
  int64_t told_progress_ns_ = 0;

  int64_t measured_ns_ = INT64_MIN / 2;  // the host's thread's

  std::thread thread_;
};

}  // namespace fathom::worker
