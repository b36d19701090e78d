#include "common/metrics.h"

#include <prometheus/text_serializer.h>

namespace fathom {

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

std::string RenderMetrics() {
  return prometheus::TextSerializer().Serialize(MetricsRegistry().Collect());
}

}  // namespace fathom
