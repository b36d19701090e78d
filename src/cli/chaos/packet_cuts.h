#pragma once

// Cuts that drop packets, in a network namespace of the run's own: the kernel swallows what goes to
// or comes from a link's port and TCP sends it again and again, as on a broken network. Linux,
// root, `ip` and `tc`; what others of the machine send is not touched. One thread, that of the
// cluster.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/chaos/relay.h"

namespace fathom::cli {

class PacketCuts {
 public:
  // The calling thread, and all threads and processes it starts from now on, are alone in a new
  // network. What `tc` says goes to `log_path`. PERMISSION_DENIED without root.
  static absl::Status EnterOwnNetwork(const std::string& log_path);

  explicit PacketCuts(std::string log_path) : log_path_(std::move(log_path)) {}

  // Connections to this port of the loopback are of this group.
  void Name(int group, uint16_t port) { ports_[group].push_back(port); }

  absl::Status Cut(int group, Relay::Direction direction);
  absl::Status Heal(int group);

 private:
  const std::string log_path_;
  std::map<int, std::vector<uint16_t>> ports_;
  std::map<int, std::vector<int>> filters_;  // by group: what to remove
  int last_filter_ = 0;
};

}  // namespace fathom::cli
