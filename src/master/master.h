#pragma once

// A master process: owns everything and knows in which order it starts and stops. Start, Drain and
// the destructor by one thread.
//
// Start: model, database, fleet, serving, I/O threads, listeners, ports file. Drain: readiness off,
// what runs finishes. Stop: listeners, fleet, CPU pool, I/O, database; each layer ends before what
// it posts to.

#include <grpcpp/grpcpp.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/health_server.h"
#include "common/periodic.h"
#include "common/stack_thread.h"
#include "master/api/grpc_admin.h"
#include "master/api/grpc_call.h"
#include "master/api/grpc_inference.h"
#include "master/api/grpc_server.h"
#include "master/api/http_api.h"
#include "master/api/http_server.h"
#include "master/api/kserve_service.h"
#include "master/fleet/fleet.h"
#include "master/identity/api_keys.h"
#include "master/models/catalog.h"
#include "master/models/catalog_keeper.h"
#include "master/serving/model_keeper.h"
#include "master/serving/serving.h"
#include "master/settings.h"
#include "master/state/cluster_state.h"

namespace fathom::master {

struct StartedFleet {
  std::unique_ptr<Fleet> fleet;
  uint16_t port = 0;
  // Returns when no listener is called any more.
  std::function<void()> stop;
};

// Makes the fleet once the models are known: the link, or a scripted one in tests.
using FleetFactory = std::function<absl::StatusOr<StartedFleet>(
    const MasterSettings&, const Catalog&, const ClusterState&)>;
absl::StatusOr<StartedFleet> StartLinkFleet(const MasterSettings& settings, const Catalog& catalog,
                                            const ClusterState& cluster);

struct MasterPorts {
  std::optional<uint16_t> http;
  std::optional<uint16_t> grpc;
  std::optional<uint16_t> admin;
  std::optional<uint16_t> metrics;
  uint16_t link = 0;
};

class Master {
 public:
  // Everything listens when it returns, and the ports file is written.
  static absl::StatusOr<std::unique_ptr<Master>> Start(const MasterSettings& settings,
                                                       const FleetFactory& fleet = StartLinkFleet);
  ~Master();  // stops at once
  Master(const Master&) = delete;
  Master& operator=(const Master&) = delete;

  const MasterPorts& ports() const { return ports_; }
  absl::Status Ready() const { return serving_->Ready(); }

  // No longer ready and no new requests; returns true when what ran has finished, false when
  // `grace` is over or `hurry` says so.
  bool Drain(absl::Duration grace, const std::function<bool()>& hurry);

 private:
  explicit Master(MasterSettings settings) : settings_(std::move(settings)) {}
  absl::Status StartAll(const FleetFactory& fleet);
  absl::Status StartListeners();
  absl::Status OpenState();
  void JoinCluster();
  absl::Status WritePorts() const;
  void UpdateReadiness();
  void DrainListeners();
  void Stop();

  const MasterSettings settings_;
  MasterPorts ports_;
  std::optional<ApiKeys> keys_;
  std::optional<LiveCatalog> catalog_;
  std::unique_ptr<ClusterState> cluster_;
  std::unique_ptr<CatalogKeeper> catalog_keeper_;
  std::unique_ptr<Quotas> quotas_;
  StartedFleet fleet_;
  std::unique_ptr<Serving> serving_;
  std::unique_ptr<ModelKeeper> model_keeper_;
  std::unique_ptr<Periodic> model_watch_;
  std::unique_ptr<HttpApi> http_api_;
  std::unique_ptr<boost::asio::io_context> io_;  // what waits in it may own parts of serving_
  std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> work_;
  std::vector<StackThread> io_threads_;
  std::unique_ptr<HttpServer> http_;
  GrpcCalls grpc_calls_;
  std::unique_ptr<GrpcInference> grpc_inference_;
  std::unique_ptr<KserveService> kserve_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<GrpcAdmin> grpc_admin_;
  std::unique_ptr<GrpcServer> admin_;
  std::unique_ptr<HealthServer> health_;
  std::mutex readiness_mutex_;
  // State below is protected by readiness_mutex_.
  GrpcServer* grpc_ready_ = nullptr;  // while it listens
  bool was_ready_ = false;
};

}  // namespace fathom::master
