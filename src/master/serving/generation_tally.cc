#include "master/serving/generation_tally.h"

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/metric_type.h>

#include <string>
#include <utility>

namespace fathom::master {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(std::string name, std::string help, MetricType type) {
  MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = type;
  return family;
}

}  // namespace

void GenerationTally::Begin() {
  const std::lock_guard lock(mutex_);
  ++accepted_;
}

void GenerationTally::End(GenerationOutcome outcome) {
  const std::lock_guard lock(mutex_);
  ++ended_[static_cast<size_t>(outcome)];
}

std::vector<MetricFamily> GenerationTally::Collect() const {
  static constexpr std::array kOutcomes{"ok", "cancelled", "error"};
  MetricFamily accepted = Family(
      "fathom_master_generations_accepted_total",
      "Generations that began; all of them end, by outcome, or are in flight", MetricType::Counter);
  MetricFamily ended = Family("fathom_master_generations_total",
                              "Generations that ended, by outcome", MetricType::Counter);
  MetricFamily in_flight =
      Family("fathom_master_requests_in_flight", "Requests that wait or run", MetricType::Gauge);
  accepted.metric.resize(1);
  in_flight.metric.resize(1);
  ended.metric.resize(kOutcomes.size());

  const std::lock_guard lock(mutex_);
  uint64_t num_ended = 0;
  for (size_t i = 0; i < kOutcomes.size(); ++i) {
    ended.metric[i].label.push_back({.name = "outcome", .value = kOutcomes[i]});
    ended.metric[i].counter.value = static_cast<double>(ended_[i]);
    num_ended += ended_[i];
  }
  accepted.metric[0].counter.value = static_cast<double>(accepted_);
  in_flight.metric[0].gauge.value = static_cast<double>(accepted_ - num_ended);
  return {std::move(accepted), std::move(ended), std::move(in_flight)};
}

}  // namespace fathom::master
