#include "master/api/catalog_status.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

const char* NameOf(ModelPhase phase) {
  switch (phase) {
    case ModelPhase::kLoading:
      return "loading";
    case ModelPhase::kWarming:
      return "warming";
    case ModelPhase::kReady:
      return "ready";
    case ModelPhase::kUnloading:
      return "unloading";
    case ModelPhase::kFailed:
      return "failed";
  }
  return "";
}

// Adds where the model is.
void AddWorkers(const std::string& model, const FleetSnapshot& fleet, v1::CatalogVersion* out) {
  for (const WorkerInfo& worker : fleet.workers) {
    for (const ServedModel& there : worker.models) {
      if (there.name != model) continue;
      v1::VersionOnWorker* on = out->add_workers();
      on->set_worker(worker.key.id);
      on->set_phase(NameOf(there.phase));
      on->set_error(std::string(Message(there.failure)));
      on->set_bytes_done(there.bytes_done);
      on->set_bytes_total(there.bytes_total);
      const bool serves = there.phase == ModelPhase::kReady && worker.state == WorkerState::kReady;
      out->set_ready_workers(out->ready_workers() + (serves ? 1 : 0));
    }
  }
  std::sort(out->mutable_workers()->begin(), out->mutable_workers()->end(),
            [](const auto& a, const auto& b) { return a.worker() < b.worker(); });
}

const v1::VersionOnWorker* AnyIn(const v1::CatalogVersion& version, std::string_view phase) {
  const auto it =
      std::find_if(version.workers().begin(), version.workers().end(),
                   [&](const v1::VersionOnWorker& worker) { return worker.phase() == phase; });
  return it == version.workers().end() ? nullptr : &*it;
}

std::string MiB(int64_t bytes) { return absl::StrCat((bytes + (1 << 20) - 1) >> 20, " MiB"); }

// Why no worker takes a version that is wanted.
std::string WhyNowhere(const ModelVersionRow& row, const FleetSnapshot& fleet) {
  bool of_pool = false;
  int64_t most = 0;
  for (const WorkerInfo& worker : fleet.workers) {
    if (worker.state != WorkerState::kReady || !IsOfPool(worker, row.pool)) continue;
    of_pool = true;
    most = std::max(most, worker.free_memory_bytes);
  }
  if (!of_pool) {
    return row.pool.empty() ? "no worker is linked"
                            : absl::StrCat("no worker of the pool '", row.pool, "' is linked");
  }
  if (most < row.memory_bytes) {
    return absl::StrCat("no worker has ", MiB(row.memory_bytes), " free; the most is ", MiB(most));
  }
  return "not placed yet";
}

std::string Progress(const v1::VersionOnWorker& worker) {
  if (worker.bytes_total() <= 0) return absl::StrCat("on ", worker.worker());
  return absl::StrFormat("%d%% on %s", 100 * worker.bytes_done() / worker.bytes_total(),
                         worker.worker());
}

void SetState(const ModelVersionRow& row, const FleetSnapshot& fleet, const std::string& absent,
              v1::CatalogVersion* out) {
  const auto set = [&](const char* state, std::string detail) {
    out->set_state(state);
    out->set_detail(std::move(detail));
  };
  if (row.retired) return set(out->workers().empty() ? "retired" : "unloading", "");
  const v1::VersionOnWorker* loading = AnyIn(*out, "loading");
  if (loading == nullptr) loading = AnyIn(*out, "warming");
  const v1::VersionOnWorker* failed = AnyIn(*out, "failed");
  const std::string share =
      row.replicas < 0 ? absl::StrCat(out->ready_workers(), " ready")
                       : absl::StrCat(out->ready_workers(), " of ", row.replicas, " ready");
  if (!absent.empty() && out->ready_workers() > 0) {
    return set("failed", absl::StrCat("this master cannot read it: ", absent));
  }
  if (loading != nullptr) return set("loading", absl::StrCat(share, ", ", Progress(*loading)));
  if (out->ready_workers() > 0) {
    if (row.replicas < 0 || out->ready_workers() >= row.replicas) return set("ready", "");
    return set("ready",
               absl::StrCat(share, ": ",
                            failed != nullptr ? absl::StrCat("failed on ", failed->worker(), ": ",
                                                             failed->error())
                                              : WhyNowhere(row, fleet)));
  }
  if (failed != nullptr) {
    return set("failed", absl::StrCat("on ", failed->worker(), ": ", failed->error()));
  }
  set("waiting", WhyNowhere(row, fleet));
}

}  // namespace

v1::CatalogVersion StatusOf(const ModelVersionRow& row, const FleetSnapshot& fleet,
                            const std::string& absent) {
  v1::CatalogVersion out;
  out.set_name(row.name);
  out.set_version(row.version);
  out.set_model(ModelNameOf(row.name, row.version));
  out.set_path(row.path);
  out.set_pool(row.pool);
  out.set_replicas(row.replicas);
  out.set_memory_bytes(row.memory_bytes);
  out.set_kv_cache_bytes(row.kv_cache_bytes);
  out.set_replaces(row.replaces);
  out.set_created(row.created_s);
  AddWorkers(out.model(), fleet, &out);
  SetState(row, fleet, absent, &out);
  return out;
}

v1::CatalogVersion StatusOf(const ServedModelInfo& model, const FleetSnapshot& fleet) {
  v1::CatalogVersion out;
  out.set_name(model.name);
  out.set_model(model.name);
  out.set_pool(model.pool);
  out.set_created(absl::ToUnixSeconds(model.created));
  AddWorkers(model.name, fleet, &out);
  out.set_replicas(out.workers_size());
  out.set_state(out.ready_workers() > 0 ? "ready" : "waiting");
  if (out.ready_workers() == 0) out.set_detail("no worker that has it is ready");
  return out;
}

void FillShares(const RouteTargets& targets,
                google::protobuf::RepeatedPtrField<v1::RouteShare>& shares) {
  for (const RouteTarget& target : targets) {
    v1::RouteShare* share = shares.Add();
    share->set_model(target.model);
    share->set_weight(target.weight);
  }
}

v1::RouteStatus StatusOf(const RouteRow& row) {
  v1::RouteStatus out;
  out.set_name(row.name);
  const auto fill = [](const std::string& text, auto* shares) {
    const auto targets = ParseTargets(text);
    if (targets.ok()) FillShares(*targets, *shares);
  };
  fill(row.targets, out.mutable_targets());
  if (!row.previous.empty()) fill(row.previous, out.mutable_previous());
  if (!row.pending.empty()) fill(row.pending, out.mutable_pending());
  return out;
}

}  // namespace fathom::master
