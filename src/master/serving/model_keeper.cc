#include "master/serving/model_keeper.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr absl::Duration kPeriod = absl::Milliseconds(500);

}  // namespace

ModelKeeper::ModelKeeper(Fleet* fleet, CatalogKeeper* catalog, const LiveCatalog* live,
                         std::function<std::optional<uint64_t>()> term, const Clock* clock)
    : fleet_(fleet),
      catalog_(catalog),
      live_(live),
      term_(std::move(term)),
      clock_(clock),
      ticker_(kPeriod, [this] { Look(); }) {}

void ModelKeeper::Look() {
  const std::optional<uint64_t> term = term_();
  if (term && term != led_) orders_.BeginTerm(clock_->MonotonicNs());
  led_ = term;
  const std::shared_ptr<const CatalogRows> rows = catalog_->rows();
  if (!term || rows == nullptr || rows->versions.empty()) return;
  const std::shared_ptr<const FleetSnapshot> fleet = fleet_->Snapshot();
  const ModelOrders::Decision decision = orders_.Decide(*rows, *fleet, clock_->MonotonicNs());
  for (const ModelOrder& order : decision.orders) {
    // Workers refuse what comes too late all the same: it bears the epoch of the term it is of.
    if (term_() != term) return;
    Give(order, *rows, *term);
  }
  for (const ModelVersionRow& row : decision.replaced) Finish(row);
  for (const RouteRow& route : decision.routes) Finish(route);
}

void ModelKeeper::Give(const ModelOrder& order, const CatalogRows& rows, uint64_t epoch) {
  absl::Status status;
  if (order.load) {
    const auto row = std::find_if(
        rows.versions.begin(), rows.versions.end(),
        [&](const ModelVersionRow& r) { return ModelNameOf(r.name, r.version) == order.model; });
    LoadOrder load{
        .model = order.model, .directory = row->path, .kv_cache_bytes = row->kv_cache_bytes};
    // A master that cannot read it itself leaves it to the worker what is there.
    if (const ModelPtr model = live_->Now()->Find(order.model)) {
      load.config_digest = model->config_digest;
      load.tokenizer_digest = model->tokenizer_digest;
    }
    status = fleet_->Load(order.worker, load, epoch);
  } else {
    status = fleet_->Unload(order.worker, order.model, epoch);
  }
  LogInfo("models", order.load ? "worker told to load a model" : "worker told to unload a model",
          {{"labels.worker", order.worker.id},
           {"labels.model", order.model},
           {"error.message", std::string(Message(status))}});
}

void ModelKeeper::Finish(const ModelVersionRow& row) {
  const absl::Status status =
      catalog_->Make([&](CatalogChanges& changes) { return changes.FinishReplacement(row); });
  LogInfo("models", "a version takes another's place",
          {{"labels.model", ModelNameOf(row.name, row.version)},
           {"labels.replaces", ModelNameOf(row.name, row.replaces)},
           {"error.message", std::string(Message(status))}});
}

void ModelKeeper::Finish(const RouteRow& route) {
  const absl::Status status =
      catalog_->Make([&](CatalogChanges& changes) { return changes.FinishRoute(route); });
  LogInfo("models", "a name leads where it led before",
          {{"labels.route", route.name},
           {"labels.targets", route.pending},
           {"error.message", std::string(Message(status))}});
}

}  // namespace fathom::master
