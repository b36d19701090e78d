#pragma once

// The small HTTP port of every process: /health (it lives), /ready (it can do its work) and
// /metrics (Prometheus). It needs no key, knows no request bodies and answers nothing else. It runs
// on a thread of its own, so that a busy process still answers its probes.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fathom {

struct HealthCallbacks {
  // Called on the server's thread. OK: ready; else the reason, which the probe shows.
  std::function<absl::Status()> ready;
  // Called before metrics are rendered, to refresh gauges. May be empty.
  std::function<void()> before_metrics;
};

class HealthServer {
 public:
  // `port` 0 is any free one. Errors name the address.
  static absl::StatusOr<std::unique_ptr<HealthServer>> Start(const std::string& bind, uint16_t port,
                                                             HealthCallbacks callbacks);
  ~HealthServer();
  HealthServer(const HealthServer&) = delete;
  HealthServer& operator=(const HealthServer&) = delete;

  uint16_t port() const;

 private:
  class Impl;
  explicit HealthServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
