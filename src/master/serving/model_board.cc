#include "master/serving/model_board.h"

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>

#include <utility>

namespace fathom::master {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class FamilyOfModels {
 public:
  FamilyOfModels(const char* name, const char* help, MetricType type) {
    family_.name = name;
    family_.help = help;
    family_.type = type;
  }

  void Add(const std::string& model, double value, const char* outcome = nullptr) {
    ClientMetric& metric = family_.metric.emplace_back();
    metric.label.push_back({.name = "model", .value = model});
    if (outcome != nullptr) metric.label.push_back({.name = "outcome", .value = outcome});
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  }
  MetricFamily Take() { return std::move(family_); }

 private:
  MetricFamily family_;
};

}  // namespace

void ModelBoard::Set(std::vector<Row> rows) {
  const std::lock_guard lock(mutex_);
  rows_.swap(rows);
}

std::vector<MetricFamily> ModelBoard::Collect() const {
  FamilyOfModels ended("fathom_master_model_generations_total",
                       "Generations of a model that ended: well, or failed or cancelled",
                       MetricType::Counter);
  FamilyOfModels seconds("fathom_master_model_generation_seconds_total",
                         "Time of a model's generations that ended well, waiting included",
                         MetricType::Counter);
  FamilyOfModels queued("fathom_master_model_queue_length",
                        "Requests that wait for a worker of the model", MetricType::Gauge);
  FamilyOfModels ready("fathom_master_model_ready_workers", "Workers that serve the model",
                       MetricType::Gauge);
  const std::lock_guard lock(mutex_);
  for (const Row& row : rows_) {
    ended.Add(row.model, static_cast<double>(row.statistics.success.count), "ok");
    ended.Add(row.model, static_cast<double>(row.statistics.failure.count), "failed");
    seconds.Add(row.model, static_cast<double>(row.statistics.success.ns) * 1e-9);
    queued.Add(row.model, static_cast<double>(row.queued));
    ready.Add(row.model, row.ready_workers);
  }
  return {ended.Take(), seconds.Take(), queued.Take(), ready.Take()};
}

}  // namespace fathom::master
