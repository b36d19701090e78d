#include "cli/admin/admin_client.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "cli/admin/admin_call.h"
#include "cli/cluster/state_dir.h"
#include "cli/server.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

constexpr std::chrono::seconds kAnswerLimit(10);
constexpr int kMessageBytesMax = 64 << 20;

}  // namespace

void AddAdminFlags(CLI::App& command, AdminFlags& flags) {
  command
      .add_option("--admin", flags.address,
                  "Operator port of a master; default the local cluster's")
      ->envname("FATHOM_ADMIN")
      ->type_name("HOST:PORT");
  command.add_option("--key", flags.key, "API key; default the local cluster's")
      ->envname("FATHOM_API_KEY")
      ->type_name("KEY");
  command.add_flag("--json", flags.as_json, "Print JSON");
  AddStateDirFlag(command, flags.state_dir);
}

absl::StatusOr<AdminClient> AdminClient::Connect(const AdminFlags& flags) {
  AdminClient client;
  client.address_ = flags.address;
  client.key_ = flags.key;
  if (flags.address.empty()) {
    ASSIGN_OR_RETURN(const std::string path, StateDirPath(flags.state_dir));
    ASSIGN_OR_RETURN(const StateDir state, StateDir::Open(path));
    ASSIGN_OR_RETURN(const ClusterInfo info, state.RunningCluster());
    client.address_ = info.admin_address;
    if (client.key_.empty() && !info.open) {
      ASSIGN_OR_RETURN(client.key_, state.ReadKey());
    }
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  client.channel_ =
      grpc::CreateCustomChannel(client.address_, grpc::InsecureChannelCredentials(), arguments);
  client.stub_ = v1::Admin::NewStub(client.channel_);
  return client;
}

template <typename Request, typename Response>
absl::StatusOr<Response> AdminClient::Ask(Method<Request, Response> method,
                                          const Request& request) {
  absl::StatusOr<Response> response = CallAdmin(*stub_, key_, kAnswerLimit, method, request);
  if (!absl::IsUnavailable(response.status())) return response;
  // A master may say so itself, of its database.
  const bool answered = channel_->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_READY;
  return absl::UnavailableError(answered ? ToAbsl(Message(response.status()))
                                         : absl::StrCat("no master answers at ", address_));
}

absl::StatusOr<v1::ListWorkersResponse> AdminClient::ListWorkers() {
  return Ask(&v1::Admin::Stub::ListWorkers, v1::ListWorkersRequest());
}

absl::StatusOr<v1::ListMastersResponse> AdminClient::ListMasters() {
  return Ask(&v1::Admin::Stub::ListMasters, v1::ListMastersRequest());
}

absl::Status AdminClient::DrainWorker(const std::string& id) {
  v1::DrainWorkerRequest request;
  request.set_worker_id(id);
  return Ask(&v1::Admin::Stub::DrainWorker, request).status();
}

absl::StatusOr<v1::ListRequestsResponse> AdminClient::ListRequests(bool ended, int32_t limit) {
  v1::ListRequestsRequest request;
  request.set_ended(ended);
  request.set_limit(limit);
  return Ask(&v1::Admin::Stub::ListRequests, request);
}

absl::StatusOr<v1::ExplainRequestResponse> AdminClient::ExplainRequest(const std::string& id) {
  v1::ExplainRequestRequest request;
  request.set_request_id(id);
  return Ask(&v1::Admin::Stub::ExplainRequest, request);
}

absl::StatusOr<v1::ListCatalogResponse> AdminClient::ListCatalog(bool retired) {
  v1::ListCatalogRequest request;
  request.set_retired(retired);
  return Ask(&v1::Admin::Stub::ListCatalog, request);
}

absl::StatusOr<v1::LoadModelResponse> AdminClient::LoadModel(const v1::LoadModelRequest& request) {
  return Ask(&v1::Admin::Stub::LoadModel, request);
}

absl::StatusOr<v1::LoadModelResponse> AdminClient::ReloadModel(const std::string& name,
                                                               int64_t version) {
  v1::ReloadModelRequest request;
  request.set_name(name);
  request.set_version(version);
  return Ask(&v1::Admin::Stub::ReloadModel, request);
}

absl::Status AdminClient::UnloadModel(const std::string& name, int64_t version) {
  v1::UnloadModelRequest request;
  request.set_name(name);
  request.set_version(version);
  return Ask(&v1::Admin::Stub::UnloadModel, request).status();
}

absl::Status AdminClient::SetRoute(const v1::SetRouteRequest& request) {
  return Ask(&v1::Admin::Stub::SetRoute, request).status();
}

absl::Status AdminClient::SetCanary(const std::string& route, const std::string& model,
                                    int32_t percent) {
  v1::SetCanaryRequest request;
  request.set_name(route);
  request.mutable_canary()->set_model(model);
  request.mutable_canary()->set_weight(percent);
  return Ask(&v1::Admin::Stub::SetCanary, request).status();
}

absl::StatusOr<v1::RollbackRouteResponse> AdminClient::RollbackRoute(const std::string& route) {
  v1::RollbackRouteRequest request;
  request.set_name(route);
  return Ask(&v1::Admin::Stub::RollbackRoute, request);
}

absl::Status AdminClient::DropRoute(const std::string& route) {
  v1::DropRouteRequest request;
  request.set_name(route);
  return Ask(&v1::Admin::Stub::DropRoute, request).status();
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Messages of our own have no part that JSON could not say.
  static_cast<void>(google::protobuf::util::MessageToJsonString(message, &json, options));
  return json + "\n";
}

}  // namespace fathom::cli
