#include "master/serving/serving.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/logging.h"
#include "common/strings.h"
#include "master/serving/failure.h"
#include "master/serving/serving_metrics.h"

namespace fathom::master {
namespace {

constexpr size_t kIdBytes = 16;
constexpr size_t kSecretBytes = 32;
constexpr size_t kSweepMin = 1024;
constexpr uint64_t kAttemptStrideMax = 255;

}  // namespace

Serving::Serving(const ServingOptions& options, Fleet* fleet, const LiveCatalog* catalog,
                 const Clock* clock, Random* random)
    : catalog_(catalog),
      fleet_(fleet),
      quotas_(options.quotas),
      clock_(clock),
      cluster_secret_(options.cluster_secret.empty() ? RandomBytes(*random, kSecretBytes)
                                                     : options.cluster_secret),
      resume_keys_(cluster_secret_),
      migration_(options.migration),
      patience_(options.patience),
      attempt_stride_(1 + static_cast<uint32_t>(random->Next() % kAttemptStrideMax)),
      admission_(options.admission, clock),
      dispatcher_(fleet, clock, random->Next()),
      book_(clock),
      condemned_(clock, [fleet](const std::string& name,
                                absl::Duration remaining) { fleet->Condemn(name, remaining); }),
      holds_(options.held_bytes),
      random_(random),
      sweep_at_(kSweepMin),
      pool_(options.cpu_threads, options.cpu_queue_max) {}

Serving::~Serving() = default;

std::shared_ptr<Generation> Serving::Generate(GenerationRequest request,
                                              const boost::asio::any_io_executor& strand,
                                              std::shared_ptr<GenerationSink> sink) {
  const GenerationServices services{.fleet = fleet_,
                                    .admission = &admission_,
                                    .dispatcher = &dispatcher_,
                                    .pool = &pool_,
                                    .statistics = &statistics_,
                                    .book = &book_,
                                    .condemned = &condemned_,
                                    .quotas = quotas_,
                                    .holds = &holds_,
                                    .clock = clock_,
                                    .cluster_secret = cluster_secret_,
                                    .migration = migration_,
                                    .patience = patience_,
                                    .attempt_stride = attempt_stride_};
  request.sampling.seed = request.seed ? *request.seed : resume_keys_.SeedOf(request.id);
  const bool look = request.resumption.look;
  auto generation =
      std::make_shared<Generation>(services, strand, std::move(request), std::move(sink));
  std::shared_ptr<Generation> predecessor;
  {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<Generation>& last = live_[generation->id()];
    if (look) predecessor = last.lock();
    last = generation;
    if (live_.size() > sweep_at_) {
      std::erase_if(live_, [](const auto& entry) { return entry.second.expired(); });
      sweep_at_ = std::max(kSweepMin, 2 * live_.size());
    }
  }
  generation->Start(std::move(predecessor));
  return generation;
}

std::string Serving::NewId() {
  const std::lock_guard lock(mutex_);
  return RandomHex(*random_, kIdBytes);
}

int32_t Serving::ReadyWorkers(const ServedModelInfo& model) const {
  const std::shared_ptr<const FleetSnapshot> fleet = fleet_->Snapshot();
  return static_cast<int32_t>(
      std::count_if(fleet->workers.begin(), fleet->workers.end(), [&](const WorkerInfo& worker) {
        return worker.state == WorkerState::kReady && IsOfPool(worker, model.pool) &&
               std::any_of(worker.models.begin(), worker.models.end(),
                           [&](const ServedModel& served) {
                             return served.name == model.name && served.serving();
                           });
      }));
}

absl::Status Serving::Ready() {
  if (draining_) return absl::UnavailableError("the master is shutting down");
  const CatalogPtr catalog = catalog_->Now();
  for (const ModelPtr& model : catalog->models()) {
    if (ReadyWorkers(*model) > 0) return absl::OkStatus();
  }
  if (catalog->models().empty()) {
    const absl::Status missing = catalog->Get({}).status();
    return absl::IsUnavailable(missing) ? missing
                                        : absl::UnavailableError("no model is in the catalogue");
  }
  const RouteObstacle obstacle = dispatcher_.Obstacle(*catalog->models().front());
  return absl::UnavailableError(ToAbsl(Describe(obstacle)));
}

std::vector<std::shared_ptr<Generation>> Serving::Live() {
  std::vector<std::shared_ptr<Generation>> all;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, weak] : live_) {
    if (auto generation = weak.lock()) all.push_back(std::move(generation));
  }
  return all;
}

void Serving::CancelAll(const absl::Status& status) {
  for (const auto& generation : Live()) {
    boost::asio::post(generation->strand(), [generation, status] { generation->Cancel(status); });
  }
}

void Serving::WatchModels() {
  EndVainWaits();
  TellStrays();
}

void Serving::TellStrays() {
  const CatalogPtr catalog = catalog_->Now();
  std::map<std::string, std::pair<std::string, std::string>> named;
  std::set<std::string> strays;
  // An empty one may be one that is not known yet.
  if (!catalog->models().empty()) {
    std::set<std::string_view> known;
    for (const ModelPtr& model : catalog->models()) known.insert(model->name);
    for (const WorkerInfo& worker : fleet_->Snapshot()->workers) {
      for (const ServedModel& served : worker.models) {
        if (!served.serving() || known.contains(served.name)) continue;
        const std::string name = absl::StrCat(worker.key.id, "/", served.name);
        named[name] = {worker.key.id, served.name};
        strays.insert(name);
      }
    }
  }
  strays = strays_.Look(strays, clock_->MonotonicNs());
  for (const std::string& stray : strays) {
    if (told_strays_.contains(stray)) continue;
    LogWarn("models", "a worker has a model that is not in the catalogue: nobody can ask for it",
            {{"labels.worker", named[stray].first}, {"labels.model", named[stray].second}});
  }
  told_strays_ = std::move(strays);
}

void Serving::EndVainWaits() {
  std::set<std::string> gone = dispatcher_.awaited_models();
  for (const ModelPtr& model : catalog_->Now()->models()) gone.erase(model->name);
  if (!gone.empty()) {
    for (const WorkerInfo& worker : fleet_->Snapshot()->workers) {
      for (const ServedModel& served : worker.models) gone.erase(served.name);
    }
  }
  const std::set<std::string> vain = vain_models_.Look(gone, clock_->MonotonicNs());
  if (vain.empty()) return;
  const absl::Status status = WithCode(
      absl::UnavailableError("the model was unloaded while the request waited for a worker"),
      "model_unloaded");
  for (const auto& generation : Live()) {
    if (!vain.contains(generation->model().name)) continue;
    boost::asio::post(generation->strand(),
                      [generation, status] { generation->CancelWaiting(status); });
  }
}

void Serving::RefreshMetrics() const {
  ServingMetrics::Get().queue_length.Set(static_cast<double>(dispatcher_.queue_length()));
  std::vector<ModelBoard::Row> rows;
  for (const ModelPtr& model : catalog_->Now()->models()) {
    rows.push_back({.model = model->name,
                    .statistics = statistics_.Of(model->name),
                    .queued = dispatcher_.queue_length(model->name),
                    .ready_workers = ReadyWorkers(*model)});
  }
  ServingMetrics::Get().models->Set(std::move(rows));
}

std::string Serving::secret_mark() const {
  return absl::BytesToHexString(HmacSha256(cluster_secret_, "fathom mark\n").substr(0, 8));
}

}  // namespace fathom::master
