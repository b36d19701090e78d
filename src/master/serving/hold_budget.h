#pragma once

// Bytes that requests without a client may hold, waiting for it to come back. Thread safety: any
// thread.

#include <atomic>
#include <cstdint>

namespace fathom::master {

class HoldBudget {
 public:
  explicit HoldBudget(int64_t bytes) : left_(bytes) {}

  // False when so many are not left.
  bool Take(int64_t bytes) {
    if (left_.fetch_sub(bytes) >= bytes) return true;
    left_.fetch_add(bytes);
    return false;
  }
  void Give(int64_t bytes) { left_.fetch_add(bytes); }

 private:
  std::atomic<int64_t> left_;
};

}  // namespace fathom::master
