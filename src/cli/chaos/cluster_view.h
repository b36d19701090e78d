#pragma once

// What the masters of a cluster say while it is disturbed: who their workers are, what runs where,
// whether their counts add up, what has happened to a request. A master that does not answer in
// time says nothing. Thread safe.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/cluster/local_cluster.h"
#include "fathom/v1/admin.grpc.pb.h"

namespace fathom::cli {

class ClusterView {
 public:
  ClusterView(const std::vector<MasterPorts>& masters, std::string key);

  // Names of the workers that every master that answers has ready.
  std::vector<std::string> ReadyWorkers();
  bool IsReady(int master);
  // Names of the requests that this worker runs for a master, or for all of them (-1); no name: any
  // worker.
  std::vector<std::string> RunningOn(const std::string& worker, int master = -1);
  // UNAVAILABLE when it does not answer; INTERNAL, which says the counts, when accepted is not
  // ended and in flight.
  absl::Status CheckConservation(int master);
  // How often requests went on at another worker, by the counts of all masters that answer.
  int64_t Migrations();
  // Likewise, attempts that went on elsewhere because their worker took nothing on.
  int64_t Untaken();
  // Whether every master that answers has its database.
  bool DatabaseIsUp();
  // How many masters say that they lead.
  int64_t Leaders();
  // What has happened to a request, from the first master that knows it. NOT_FOUND: none does.
  absl::StatusOr<v1::ExplainRequestResponse> Explain(const std::string& id);

 private:
  // UNAVAILABLE when it does not answer.
  absl::StatusOr<std::string> Metrics(int master);
  int64_t Counted(const std::string& metric);  // by all masters

  const std::vector<MasterPorts> masters_;
  const std::string key_;
  std::vector<std::unique_ptr<v1::Admin::Stub>> stubs_;
};

// The sum of a metric over all its labels, in Prometheus' text format; nothing where it is not
// there.
std::optional<double> SumOfMetric(std::string_view text, std::string_view name);

// OK when the events may have happened to one request in this order: it is received first and ends
// once, last; an attempt is submitted before it is lost, and not twice at a time.
absl::Status CheckHistory(const v1::ExplainRequestResponse& history);

}  // namespace fathom::cli
