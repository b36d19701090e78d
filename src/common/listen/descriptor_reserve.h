#pragma once

// File descriptors are one pool for all that a process does: a flood at one port would take from
// the others, from the database and from files. So each port leaves some of them to what matters
// more: clients may use what is below the reserve, peers of ours half of the reserve too. Any
// thread.

#include <cstdint>

namespace fathom {

enum class DescriptorClass : uint8_t {
  kClients,  // anybody's connections
  kPeers,    // of our own processes, and of those who operate them
};

// Whether a connection of that class, just accepted as `fd`, is one that the reserve is kept from:
// the kernel gives the lowest number that is free, so all below it are in use. Follows the
// process's limit as it is now.
bool IsOfReserve(int fd, DescriptorClass of);

}  // namespace fathom
