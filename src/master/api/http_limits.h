#pragma once

// Bounds on what an HTTP client may take: bytes, connections and time.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace fathom::master {

struct HttpLimits {
  uint32_t header_bytes = 32 * 1024;
  uint64_t body_bytes = uint64_t{32} << 20;
  uint64_t bodies_bytes = uint64_t{1} << 30;  // of all requests together
  int connections = 4096;
  std::chrono::milliseconds idle{75'000};    // between requests
  std::chrono::milliseconds header{10'000};  // from a request's first byte to its header's last
  std::chrono::milliseconds body{60'000};    // all of it
  std::chrono::milliseconds write{30'000};   // one piece of an answer
  std::chrono::milliseconds linger{1'000};   // for the client to close, after the last answer
  std::chrono::milliseconds age{300'000};    // of a connection: then it takes no further request
  std::chrono::milliseconds ping{15'000};    // silence in a stream before a comment is sent
};

// What all bodies that are being read or worked on may take together: connections alone would allow
// too much. Any thread.
class BodyBudget {
 public:
  explicit BodyBudget(uint64_t bytes) : left_(static_cast<int64_t>(bytes)) {}
  BodyBudget(const BodyBudget&) = delete;
  BodyBudget& operator=(const BodyBudget&) = delete;

  // Gives back what it took when it goes.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept { *this = std::move(other); }
    Share& operator=(Share&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Share() {
      if (budget_ != nullptr) budget_->left_ += bytes_;
    }
    explicit operator bool() const { return budget_ != nullptr; }
    // Grows to that much. False when it is not left; the share stays as it was.
    bool Cover(uint64_t bytes) {
      const int64_t more = static_cast<int64_t>(bytes) - bytes_;
      if (more <= 0) return true;
      Share added = budget_->Take(static_cast<uint64_t>(more));
      if (!added) return false;
      bytes_ += std::exchange(added.bytes_, 0);
      return true;
    }

   private:
    friend class BodyBudget;
    BodyBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  // Empty when that much is not left.
  Share Take(uint64_t bytes) {
    const auto wanted = static_cast<int64_t>(bytes);
    Share share;
    if (left_.fetch_sub(wanted) < wanted) {
      left_ += wanted;
      return share;
    }
    share.budget_ = this;
    share.bytes_ = wanted;
    return share;
  }

 private:
  std::atomic<int64_t> left_;
};

}  // namespace fathom::master
