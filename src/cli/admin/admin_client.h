#pragma once

// Asks a master's operator port. One thread.

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "fathom/v1/admin.grpc.pb.h"

namespace fathom::cli {

struct AdminFlags {
  std::string address;    // host:port; empty: the local cluster's
  std::string key;        // empty: the local cluster's
  std::string state_dir;  // empty: the default one
  bool as_json = false;
};

void AddAdminFlags(CLI::App& command, AdminFlags& flags);

class AdminClient {
 public:
  // UNAVAILABLE when no address is given and no local cluster runs.
  static absl::StatusOr<AdminClient> Connect(const AdminFlags& flags);

  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<v1::ListMastersResponse> ListMasters();
  absl::Status DrainWorker(const std::string& id);
  absl::StatusOr<v1::ListRequestsResponse> ListRequests(bool ended, int32_t limit);
  absl::StatusOr<v1::ExplainRequestResponse> ExplainRequest(const std::string& id);

  absl::StatusOr<v1::ListCatalogResponse> ListCatalog(bool retired);
  absl::StatusOr<v1::LoadModelResponse> LoadModel(const v1::LoadModelRequest& request);
  absl::StatusOr<v1::LoadModelResponse> ReloadModel(const std::string& name, int64_t version);
  absl::Status UnloadModel(const std::string& name, int64_t version);
  absl::Status SetRoute(const v1::SetRouteRequest& request);
  absl::Status SetCanary(const std::string& route, const std::string& model, int32_t percent);
  absl::StatusOr<v1::RollbackRouteResponse> RollbackRoute(const std::string& route);
  absl::Status DropRoute(const std::string& route);

 private:
  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Admin::Stub::*)(grpc::ClientContext*, const Request&, Response*);

  AdminClient() = default;
  template <typename Request, typename Response>
  absl::StatusOr<Response> Ask(Method<Request, Response> method, const Request& request);

  std::string address_;
  std::string key_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Admin::Stub> stub_;
};

// On one line, as protobuf's JSON writes it.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace fathom::cli
