#pragma once

// What any master that shares the cluster's secret can tell of a request without having seen it:
// the id that an idempotency key stands for, the seed that was drawn for it, and the proof that it
// is this caller's and this body's. Thread safety: immutable.

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::master {

class ResumeKeys {
 public:
  explicit ResumeKeys(std::string_view cluster_secret);

  // 128 bits in hex.
  std::string IdOf(std::string_view key_id, std::string_view idempotency_key) const;
  uint64_t SeedOf(std::string_view request_id) const;
  // 64 bits in hex. `body` is what the client sent, byte for byte.
  std::string ProofOf(std::string_view request_id, std::string_view key_id,
                      std::string_view body) const;

 private:
  const std::string key_;
};

}  // namespace fathom::master
