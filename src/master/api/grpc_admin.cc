#include "master/api/grpc_admin.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/admin_rights.h"

namespace fathom::master {
namespace {

constexpr int32_t kRequestsDefault = 1000;
constexpr int32_t kRequestsMax = 100'000;
constexpr size_t kNameBytesMax = 256;

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

void Fill(const WorkerInfo& info, int64_t now_ns, v1::WorkerStatus& out) {
  out.set_id(info.key.id);
  out.set_incarnation(info.key.incarnation);
  out.set_state(info.state == WorkerState::kReady      ? "ready"
                : info.state == WorkerState::kDraining ? "draining"
                                                       : "loading");
  out.set_build(info.build);
  out.set_device(info.device);
  for (const ServedModel& model : info.models) {
    if (model.serving()) out.add_models(model.name);
  }
  out.mutable_labels()->insert(info.labels.begin(), info.labels.end());
  out.set_running(info.figures.running);
  out.set_waiting(info.figures.waiting);
  out.set_saturation(info.saturation);
  out.set_tokens_per_second(info.figures.tokens_per_second);
  out.set_in_flight(info.in_flight);
  out.set_in_flight_cost(info.in_flight_cost);
  out.set_credit(info.figures.credit);
  out.set_linked_seconds(Seconds(now_ns - info.linked_at_ns));
}

void Fill(const RequestView& view, v1::RequestStatus& out) {
  out.set_id(view.id);
  out.set_model(view.model);
  out.set_tenant(view.tenant);
  out.set_state(std::string(NameOf(view.state)));
  out.set_worker(view.worker);
  out.set_attempt(static_cast<int32_t>(view.attempt));
  out.set_prompt_tokens(view.usage.prompt_tokens);
  out.set_cached_tokens(view.usage.cached_tokens);
  out.set_completion_tokens(view.usage.completion_tokens);
  out.set_age_seconds(Seconds(view.age_ns));
  out.set_first_token_seconds(Seconds(view.first_token_ns));
  out.set_error(view.error);
  out.set_migrations(view.migrations);
}

void Fill(const MasterRow& row, v1::MasterStatus& out) {
  out.set_id(row.identity.id);
  out.set_incarnation(row.identity.incarnation);
  out.set_link_address(row.identity.link_address);
  out.set_build(row.identity.build);
  out.set_in_flight(row.figures.in_flight);
  out.set_queued(row.figures.queued);
  out.set_workers(row.figures.workers);
  out.set_tokens_per_second(row.figures.tokens_per_second);
  out.set_up_seconds(row.up_seconds);
  out.set_age_seconds(row.age_seconds);
}

}  // namespace

grpc::ServerUnaryReactor* GrpcAdmin::ListWorkers(grpc::CallbackServerContext* context,
                                                 const v1::ListWorkersRequest* /*request*/,
                                                 v1::ListWorkersResponse* response) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kSeeWorkers);
  if (!caller.ok()) return FinishAdmin(context, caller.status());
  const std::shared_ptr<const FleetSnapshot> fleet = serving_->fleet().Snapshot();
  const int64_t now_ns = serving_->clock().MonotonicNs();
  for (const WorkerInfo& worker : fleet->workers) Fill(worker, now_ns, *response->add_workers());
  std::sort(response->mutable_workers()->begin(), response->mutable_workers()->end(),
            [](const auto& a, const auto& b) { return a.id() < b.id(); });
  return FinishAdmin(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* GrpcAdmin::ListMasters(grpc::CallbackServerContext* context,
                                                 const v1::ListMastersRequest* /*request*/,
                                                 v1::ListMastersResponse* response) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kSeeMasters);
  if (!caller.ok()) return FinishAdmin(context, caller.status());
  const LeaseView leader = cluster_->leader();
  const std::string self = cluster_->incarnation();
  const std::vector<MasterConflict> conflicts = cluster_->conflicts();
  for (const MasterRow& row : cluster_->masters()) {
    v1::MasterStatus* out = response->add_masters();
    Fill(row, *out);
    for (const MasterConflict& conflict : conflicts) {
      if (conflict.incarnation == row.identity.incarnation) out->set_conflict(TextOf(conflict));
    }
    out->set_leader(row.identity.incarnation == leader.holder);
    out->set_self(row.identity.incarnation == self);
  }
  response->set_epoch(leader.epoch);
  response->set_database_up(cluster_->database_up());
  response->set_database(cluster_->database_place());
  return FinishAdmin(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* GrpcAdmin::DrainWorker(grpc::CallbackServerContext* context,
                                                 const v1::DrainWorkerRequest* request,
                                                 v1::DrainWorkerResponse* /*response*/) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kDrainWorker);
  const absl::Status status =
      caller.ok() ? serving_->fleet().Drain(request->worker_id().substr(0, kNameBytesMax))
                  : caller.status();
  AuditAdmin("drain worker", status, caller, context->peer(), request->worker_id());
  return FinishAdmin(context, status);
}

grpc::ServerUnaryReactor* GrpcAdmin::ListRequests(grpc::CallbackServerContext* context,
                                                  const v1::ListRequestsRequest* request,
                                                  v1::ListRequestsResponse* response) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kSeeRequests);
  if (!caller.ok()) return FinishAdmin(context, caller.status());
  const int32_t limit =
      request->limit() <= 0 ? kRequestsDefault : std::min(request->limit(), kRequestsMax);
  for (const RequestView& view :
       serving_->book().List(caller->tenant, request->ended(), static_cast<size_t>(limit))) {
    Fill(view, *response->add_requests());
  }
  return FinishAdmin(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* GrpcAdmin::ExplainRequest(grpc::CallbackServerContext* context,
                                                    const v1::ExplainRequestRequest* request,
                                                    v1::ExplainRequestResponse* response) {
  const auto caller = AuthorizeAdmin(*context, *keys_, AdminAction::kSeeRequests);
  if (!caller.ok()) return FinishAdmin(context, caller.status());
  const auto view = serving_->book().Find(caller->tenant, request->request_id());
  if (!view) {
    return FinishAdmin(context,
                       absl::NotFoundError("this master knows no such request; it keeps those "
                                           "that run and some thousands that ended"));
  }
  Fill(*view, *response->mutable_status());
  response->set_dropped_events(view->dropped_events);
  for (const RequestEvent& event : view->events) {
    v1::RequestEvent* out = response->add_events();
    out->set_at_seconds(Seconds(event.at_ns));
    out->set_what(event.what);
    out->set_worker(event.worker);
    out->set_detail(event.detail);
  }
  return FinishAdmin(context, absl::OkStatus());
}

}  // namespace fathom::master
