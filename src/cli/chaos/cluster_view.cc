#include "cli/chaos/cluster_view.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/admin/admin_call.h"
#include "cli/http_client/http_client.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

constexpr std::chrono::milliseconds kAnswerLimit(500);
constexpr absl::Duration kReadyLimit = absl::Milliseconds(500);
constexpr absl::Duration kScrapeLimit = absl::Seconds(2);
constexpr int kMessageBytesMax = 64 << 20;
constexpr int kReconnectMs = 50;
constexpr int kConnectMs = 5000;
constexpr int32_t kRequestsMax = 100'000;

}  // namespace

ClusterView::ClusterView(const std::vector<MasterPorts>& masters, std::string key)
    : masters_(masters), key_(std::move(key)) {
  for (const MasterPorts& master : masters_) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMs);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMs);
    stubs_.push_back(v1::Admin::NewStub(grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", master.admin), grpc::InsecureChannelCredentials(), arguments)));
  }
}

std::vector<std::string> ClusterView::ReadyWorkers() {
  std::map<std::string, size_t> ready;
  size_t answered = 0;
  for (const auto& stub : stubs_) {
    const auto response = CallAdmin(*stub, key_, kAnswerLimit, &v1::Admin::Stub::ListWorkers,
                                    v1::ListWorkersRequest());
    if (!response.ok()) continue;
    ++answered;
    for (const v1::WorkerStatus& worker : response->workers()) {
      if (worker.state() == "ready") ++ready[worker.id()];
    }
  }
  std::vector<std::string> names;
  for (const auto& [name, masters] : ready) {
    if (masters == answered) names.push_back(name);
  }
  return names;
}

bool ClusterView::IsReady(int master) {
  const uint16_t port = masters_[static_cast<size_t>(master)].http;
  HttpClient client(Url{.host = "127.0.0.1", .port = port, .base = ""},
                    {.connect_timeout = kReadyLimit, .idle_timeout = kReadyLimit});
  const auto response = client.Get("/ready");
  return response.ok() && response->status == 200;
}

std::vector<std::string> ClusterView::RunningOn(const std::string& worker, int master) {
  v1::ListRequestsRequest request;
  request.set_limit(kRequestsMax);
  std::vector<std::string> ids;
  for (size_t i = 0; i < stubs_.size(); ++i) {
    if (master >= 0 && static_cast<size_t>(master) != i) continue;
    const auto response =
        CallAdmin(*stubs_[i], key_, kAnswerLimit, &v1::Admin::Stub::ListRequests, request);
    if (!response.ok()) continue;
    for (const v1::RequestStatus& status : response->requests()) {
      if (status.state() == "running" && (worker.empty() || status.worker() == worker))
        ids.push_back(status.id());
    }
  }
  return ids;
}

absl::StatusOr<std::string> ClusterView::Metrics(int master) {
  const uint16_t port = masters_[static_cast<size_t>(master)].metrics;
  HttpClient client(Url{.host = "127.0.0.1", .port = port, .base = ""},
                    {.connect_timeout = kScrapeLimit, .idle_timeout = kScrapeLimit});
  const auto response = client.Get("/metrics");
  if (!response.ok() || response->status != 200) return absl::UnavailableError("no answer");
  return response->body;
}

int64_t ClusterView::Migrations() { return Counted("fathom_master_migrations_total"); }

int64_t ClusterView::Untaken() { return Counted("fathom_master_attempts_untaken_total"); }

int64_t ClusterView::Leaders() { return Counted("fathom_master_leader"); }

bool ClusterView::DatabaseIsUp() {
  for (size_t m = 0; m < masters_.size(); ++m) {
    const auto metrics = Metrics(static_cast<int>(m));
    if (metrics.ok() && SumOfMetric(*metrics, "fathom_master_database_up") != 1) return false;
  }
  return true;
}

int64_t ClusterView::Counted(const std::string& metric) {
  double sum = 0;
  for (size_t m = 0; m < masters_.size(); ++m) {
    const auto metrics = Metrics(static_cast<int>(m));
    if (metrics.ok()) sum += SumOfMetric(*metrics, metric).value_or(0);
  }
  return static_cast<int64_t>(sum);
}

absl::Status ClusterView::CheckConservation(int master) {
  ASSIGN_OR_RETURN(const std::string metrics, Metrics(master));
  const auto accepted = SumOfMetric(metrics, "fathom_master_generations_accepted_total");
  const auto ended = SumOfMetric(metrics, "fathom_master_generations_total");
  const auto in_flight = SumOfMetric(metrics, "fathom_master_requests_in_flight");
  // Before the first request there is nothing to count.
  if (accepted.value_or(0) == ended.value_or(0) + in_flight.value_or(0)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("accepted ", accepted.value_or(0), ", ended ",
                                          ended.value_or(0), ", in flight ",
                                          in_flight.value_or(0)));
}

absl::StatusOr<v1::ExplainRequestResponse> ClusterView::Explain(const std::string& id) {
  v1::ExplainRequestRequest request;
  request.set_request_id(id);
  for (const auto& stub : stubs_) {
    auto response = CallAdmin(*stub, key_, kAnswerLimit, &v1::Admin::Stub::ExplainRequest, request);
    if (response.ok()) return response;
  }
  return absl::NotFoundError("no master knows it");
}

std::optional<double> SumOfMetric(std::string_view text, std::string_view name) {
  std::optional<double> sum;
  for (const absl::string_view line : absl::StrSplit(ToAbsl(text), '\n')) {
    if (ToStd(line).substr(0, name.size()) != name) continue;
    const char next = line.size() > name.size() ? line[name.size()] : ' ';
    if (next != ' ' && next != '{') continue;  // another metric whose name begins so
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space != absl::string_view::npos && absl::SimpleAtod(line.substr(space + 1), &value)) {
      sum = sum.value_or(0) + value;
    }
  }
  return sum;
}

absl::Status CheckHistory(const v1::ExplainRequestResponse& history) {
  const auto broken = [&](const char* rule) {
    std::string text = absl::StrCat(rule, ":");
    for (const v1::RequestEvent& event : history.events())
      absl::StrAppend(&text, " ", event.what());
    return absl::InternalError(text);
  };
  double last = 0;
  int ends = 0;
  // What is taken over was submitted by another master, or only waited there.
  enum class Place { kQueued, kSubmitted, kEither } place = Place::kQueued;
  // Events in the middle may not have been kept.
  const bool whole = history.dropped_events() == 0;
  for (const v1::RequestEvent& event : history.events()) {
    if (event.at_seconds() < last) return broken("time goes back");
    last = event.at_seconds();
    if (ends > 0) return broken("something happens after the end");
    if (event.what() == "taken over") {
      place = Place::kEither;
    } else if (event.what() == "submitted") {
      if (place == Place::kSubmitted && whole) return broken("submitted while it runs");
      place = Place::kSubmitted;
    } else if (event.what() == "lost" || event.what() == "rejected" ||
               event.what() == "not taken on") {
      if (place == Place::kQueued && whole) return broken("lost without being submitted");
      place = Place::kQueued;
    } else if (event.what() == "ended") {
      ++ends;
    }
  }
  const std::string& state = history.status().state();
  const bool ended = state == "ok" || state == "error" || state == "cancelled";
  if (ended != (ends == 1)) return broken("its end and its state differ");
  return absl::OkStatus();
}

}  // namespace fathom::cli
