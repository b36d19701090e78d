#include "common/metrics.h"

#include <prometheus/text_serializer.h>

#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

namespace fathom {
namespace {

struct Collectables {
  std::mutex mutex;
  std::vector<std::shared_ptr<prometheus::Collectable>> all;  // protected by mutex
};

// Never destroyed, like the registry.
Collectables& CollectablesOfProcess() {
  static auto* collectables = new Collectables;
  return *collectables;
}

}  // namespace

prometheus::Registry& MetricsRegistry() {
  // Merge: asking again for a family returns the one there is. Never destroyed: threads count to
  // the very end.
  static auto* registry = new prometheus::Registry(prometheus::Registry::InsertBehavior::Merge);
  return *registry;
}

prometheus::Counter& AddCounter(const std::string& name, const std::string& help,
                                const MetricLabels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(MetricsRegistry()).Add(labels);
}

prometheus::Gauge& AddGauge(const std::string& name, const std::string& help,
                            const MetricLabels& labels) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(MetricsRegistry()).Add(labels);
}

prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                    const std::vector<double>& buckets,
                                    const MetricLabels& labels) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(MetricsRegistry())
      .Add(labels, buckets);
}

void AddCollectable(std::shared_ptr<prometheus::Collectable> collectable) {
  Collectables& collectables = CollectablesOfProcess();
  const std::lock_guard lock(collectables.mutex);
  collectables.all.push_back(std::move(collectable));
}

std::string RenderMetrics() {
  std::vector<prometheus::MetricFamily> families = MetricsRegistry().Collect();
  Collectables& collectables = CollectablesOfProcess();
  const std::lock_guard lock(collectables.mutex);
  for (const auto& collectable : collectables.all) {
    std::vector<prometheus::MetricFamily> more = collectable->Collect();
    families.insert(families.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace fathom
