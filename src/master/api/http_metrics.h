#pragma once

// HTTP requests counted by place and status, and connections that were one too many. Labels are
// bounded: places are ours, statuses are the ones we send. Any thread.

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "common/metrics.h"

namespace fathom::master {

class HttpMetrics {
 public:
  static HttpMetrics& Get() {
    static HttpMetrics metrics;
    return metrics;
  }

  void Count(const std::string& place, int status, double seconds) {
    Series& series = Find(place, status);
    series.requests->Increment();
    series.duration->Observe(seconds);
  }

  prometheus::Counter& turned_away = AddCounter("fathom_master_http_connections_refused_total",
                                                "Connections over the limit, answered with 503");

 private:
  struct Series {
    prometheus::Counter* requests = nullptr;
    prometheus::Histogram* duration = nullptr;
  };

  Series& Find(const std::string& place, int status) {
    const std::lock_guard lock(mutex_);
    Series& series = series_[{place, status}];
    if (series.requests == nullptr) {
      series.requests = &AddCounter("fathom_master_http_requests_total", "HTTP requests answered",
                                    {{"place", place}, {"code", std::to_string(status)}});
      series.duration = &AddHistogram("fathom_master_http_request_duration_seconds",
                                      "From a request's first byte to its end",
                                      {.001, .005, .01, .02, .04, .08, .16, .32, .64, 1.28, 2.56,
                                       5.12, 10.24, 20.48, 40.96, 81.92},
                                      {{"place", place}});
    }
    return series;
  }

  std::mutex mutex_;
  std::map<std::pair<std::string, int>, Series> series_;  // protected by mutex_
};

}  // namespace fathom::master
