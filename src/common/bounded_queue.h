#pragma once

// A queue with a named limit, for handing work from many threads to one. A full queue refuses; it
// never blocks the producer. After Close, pushes fail and pops drain what is left. Thread safety:
// every method may be called from any thread.

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <iterator>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace fathom {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}
  BoundedQueue(const BoundedQueue&) = delete;
  BoundedQueue& operator=(const BoundedQueue&) = delete;

  // False, leaving `item` untouched, when the queue is full or closed.
  [[nodiscard]] bool TryPush(T&& item) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || items_.size() >= capacity_) return false;
      items_.push_back(std::move(item));
    }
    ready_.notify_one();
    return true;
  }

  [[nodiscard]] std::optional<T> TryPop() {
    const std::lock_guard lock(mutex_);
    return PopLocked();
  }

  // Waits until an item, Close or the timeout; nothing on the last two.
  [[nodiscard]] std::optional<T> Pop(absl::Duration timeout = absl::InfiniteDuration()) {
    std::unique_lock lock(mutex_);
    const auto some = [this] { return closed_ || !items_.empty(); };
    if (timeout == absl::InfiniteDuration()) {
      ready_.wait(lock, some);
    } else {
      ready_.wait_for(lock, absl::ToChronoNanoseconds(timeout), some);
    }
    return PopLocked();
  }

  // Everything that is there now, oldest first.
  [[nodiscard]] std::vector<T> Drain() {
    const std::lock_guard lock(mutex_);
    std::vector<T> all(std::make_move_iterator(items_.begin()),
                       std::make_move_iterator(items_.end()));
    items_.clear();
    return all;
  }

  void Close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
  }

  [[nodiscard]] bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }
  [[nodiscard]] size_t size() const {
    const std::lock_guard lock(mutex_);
    return items_.size();
  }

 private:
  std::optional<T> PopLocked() {
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  const size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  // State below is protected by mutex_.
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace fathom
