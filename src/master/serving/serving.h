#pragma once

// Serving as the dialects see it: start a generation, know whether the master is ready, drain. Owns
// what all generations share. Thread safe where not said otherwise.

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/random.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog.h"
#include "master/serving/admission.h"
#include "master/serving/condemned.h"
#include "master/serving/cpu_pool.h"
#include "master/serving/dispatcher.h"
#include "master/serving/generation.h"
#include "master/serving/lasting_names.h"
#include "master/serving/model_statistics.h"
#include "master/serving/request_book.h"
#include "master/serving/resume_keys.h"

namespace fathom::master {

struct ServingOptions {
  AdmissionLimits admission;
  int cpu_threads = 2;
  size_t cpu_queue_max = 4096;
  Quotas* quotas = nullptr;  // outlives it; null: none are kept
  // Keys what workers learn of tenants and what resuming clients show; empty: one is drawn.
  std::string cluster_secret;
  int64_t held_bytes = int64_t{64} << 20;  // of requests that wait for their client to come back
  absl::Duration patience = absl::Milliseconds(400);  // with a worker that takes nothing on
  bool migration = true;                              // what a lost worker ran goes on elsewhere
};

class Serving {
 public:
  // `fleet` and `catalog` outlive it.
  Serving(const ServingOptions& options, Fleet* fleet, const LiveCatalog* catalog,
          const Clock* clock, Random* random);
  ~Serving();

  // On `strand`, on which the sink will hear of it. Where the client gave no seed, it gets the one
  // that belongs to its id, so that any master would give it the same.
  std::shared_ptr<Generation> Generate(GenerationRequest request,
                                       const boost::asio::any_io_executor& strand,
                                       std::shared_ptr<GenerationSink> sink);

  // 128 random bits in hex.
  std::string NewId();
  // OK when some worker is ready for some model and the master is not draining; else the reason.
  absl::Status Ready();
  int32_t ReadyWorkers(const ServedModelInfo& model) const;

  // No more readiness; what runs goes on.
  void BeginDrain() { draining_ = true; }
  bool draining() const { return draining_; }
  int32_t num_active() const { return admission_.requests(); }
  size_t queue_length() const { return dispatcher_.queue_length(); }
  // Ends every generation there is with this status.
  void CancelAll(const absl::Status& status);
  // Ends those that wait for a model which was unloaded everywhere, and warns of models that
  // workers have and nobody can ask for. The owner calls it every second, on one thread.
  void WatchModels();

  // Ends the CPU pool, so that nothing is posted from it any more. Once; by the owner.
  void Stop() { pool_.Stop(); }

  // The fleet changed. The owner connects it to Fleet::OnChange.
  void OnFleetChange(FleetNews news) { dispatcher_.OnFleetChange(news); }
  // Likewise, to Fleet::OnCacheUpdate.
  void OnCacheUpdate(const WorkerKey& worker, const CacheUpdate& update) {
    dispatcher_.OnCacheUpdate(worker, update);
  }
  // Likewise, to Fleet::OnCondemned.
  void OnCondemned(const std::string& name, absl::Duration remaining) {
    condemned_.Learn(name, remaining);
  }
  // Likewise, to Fleet::OnLastWords.
  void OnLastWords(const std::vector<LastRun>& runs) { condemned_.OnCrash(runs); }
  // Brings the gauges up to date, before they are read.
  void RefreshMetrics() const;

  // As it is now: whoever handles a request takes it once.
  CatalogPtr catalog() const { return catalog_->Now(); }
  CpuPool& pool() { return pool_; }
  const StatisticsBook& statistics() const { return statistics_; }
  const RequestBook& book() const { return book_; }
  const ResumeKeys& resume_keys() const { return resume_keys_; }
  // Equal at masters of one secret, which it does not give away.
  std::string secret_mark() const;
  Fleet& fleet() const { return *fleet_; }
  Quotas* quotas() const { return quotas_; }
  const Clock& clock() const { return *clock_; }

 private:
  std::vector<std::shared_ptr<Generation>> Live();
  void EndVainWaits();
  void TellStrays();

  const LiveCatalog* const catalog_;
  Fleet* const fleet_;
  Quotas* const quotas_;
  const Clock* const clock_;
  const std::string cluster_secret_;
  const ResumeKeys resume_keys_;
  const bool migration_;
  const absl::Duration patience_;
  const uint32_t attempt_stride_;
  std::atomic<bool> draining_{false};
  Admission admission_;
  Dispatcher dispatcher_;
  StatisticsBook statistics_;
  RequestBook book_;
  Condemned condemned_;
  HoldBudget holds_;
  // The watch's own: models that requests wait for in vain, and `worker/model` that nobody can ask
  // for, those the log has heard of among them.
  LastingNames vain_models_;
  LastingNames strays_;
  std::set<std::string> told_strays_;
  std::mutex mutex_;
  Random* const random_;                                             // protected by mutex_
  std::unordered_map<std::string, std::weak_ptr<Generation>> live_;  // protected by mutex_
  size_t sweep_at_ = 0;                                              // protected by mutex_
  CpuPool pool_;  // last: its threads use everything above
};

}  // namespace fathom::master
