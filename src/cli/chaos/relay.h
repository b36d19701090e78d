#pragma once

// TCP relays between workers and masters that can become black holes: nothing is closed and nothing
// is refused, bytes merely stop to arrive, in one direction or both, as when a network drops every
// packet. New connections are taken and carry nothing. Healing lets what was held back go on, or
// breaks the connections, as a middlebox that has forgotten them does. A thread of its own moves
// the bytes. Thread safe.

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace fathom::cli {

class Relay {
 public:
  enum class Direction { kBoth, kToTarget, kFromTarget };

  Relay();
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // A free port of the loopback whose connections lead to `target_port` of it. `group` is what Cut
  // and Heal act upon; several ports may share one.
  absl::StatusOr<uint16_t> Open(uint16_t target_port, int group);

  // Both have taken effect when they return.
  void Cut(int group, Direction direction);
  void Heal(int group, bool break_connections);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::cli
