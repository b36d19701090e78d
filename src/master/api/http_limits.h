#pragma once

// Bounds on what an HTTP client may take: bytes, connections and time.

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace fathom::master {

struct HttpLimits {
  uint32_t header_bytes = 32 * 1024;
  uint64_t body_bytes = uint64_t{32} << 20;
  int connections = 4096;
  std::chrono::milliseconds idle{75'000};    // between requests
  std::chrono::milliseconds header{10'000};  // from a request's first byte to its header's last
  std::chrono::milliseconds body{60'000};    // all of it
  std::chrono::milliseconds write{30'000};   // one piece of an answer
  std::chrono::milliseconds linger{1'000};   // for the client to close, after the last answer
  std::chrono::milliseconds ping{15'000};    // silence in a stream before a comment is sent
};

}  // namespace fathom::master
