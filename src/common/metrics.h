#pragma once

// Prometheus metrics: one registry a process. Names: one prefix a binary, base units, `_total` on
// counters. Labels only from bounded sets, never user input. A family asked for twice is the same
// family. Thread safety: everything may be called from any thread; returned references live as long
// as the process.

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fathom {

using MetricLabels = std::map<std::string, std::string>;

prometheus::Registry& MetricsRegistry();

prometheus::Counter& AddCounter(const std::string& name, const std::string& help,
                                const MetricLabels& labels = {});
prometheus::Gauge& AddGauge(const std::string& name, const std::string& help,
                            const MetricLabels& labels = {});
// `buckets`: upper bounds, ascending.
prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                    const std::vector<double>& buckets,
                                    const MetricLabels& labels = {});

// Families whose values must agree with each other: they are collected together at every rendering,
// to the end of the process.
void AddCollectable(std::shared_ptr<prometheus::Collectable> collectable);

// Everything in the text exposition format.
std::string RenderMetrics();

}  // namespace fathom
