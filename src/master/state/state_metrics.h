#pragma once

// Metrics of the masters' shared state. Any thread.

#include <string>

#include "common/metrics.h"

namespace fathom::master {

struct StateMetrics {
  prometheus::Gauge& database_up =
      AddGauge("fathom_master_database_up", "1 while the database of the masters' state answers");
  prometheus::Histogram& database_seconds =
      AddHistogram("fathom_master_database_seconds", "Time of a job on the database, waiting apart",
                   {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5});
  prometheus::Gauge& leader =
      AddGauge("fathom_master_leader", "1 on the master that holds the leadership's lease");
  prometheus::Gauge& epoch =
      AddGauge("fathom_master_epoch", "Epoch of the leadership's lease as this master knows it");
  prometheus::Gauge& secret_conflicts =
      AddGauge("fathom_master_conflicts", "Masters of this database that do not fit with this one",
               {{"kind", "secret"}});
  prometheus::Gauge& id_conflicts =
      AddGauge("fathom_master_conflicts", "Masters of this database that do not fit with this one",
               {{"kind", "id"}});
  prometheus::Counter& request_quota_rejections =
      AddCounter("fathom_master_quota_rejections_total",
                 "Requests refused because a key's quota is used up", {{"quota", "requests"}});
  prometheus::Counter& token_quota_rejections =
      AddCounter("fathom_master_quota_rejections_total",
                 "Requests refused because a key's quota is used up", {{"quota", "tokens"}});

  static StateMetrics& Get() {
    static auto* metrics = new StateMetrics;
    return *metrics;
  }
};

}  // namespace fathom::master
