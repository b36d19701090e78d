#pragma once

// Messages that wait for a stream which takes one write at a time; bounded in bytes, so that a slow
// peer costs a known amount of memory. Thread safety: none; its stream's mutex protects it.

#include <cstddef>
#include <deque>
#include <utility>

namespace fathom {

template <typename Message>
class Outbox {
 public:
  explicit Outbox(size_t max_bytes) : max_bytes_(max_bytes) {}

  // False, leaving `message` untouched, when it does not fit. One message always fits into an empty
  // outbox.
  [[nodiscard]] bool Push(Message&& message, size_t bytes) {
    if (!waiting_.empty() && bytes_ + bytes > max_bytes_) return false;
    bytes_ += bytes;
    waiting_.push_back({std::move(message), bytes});
    return true;
  }

  // The message to write next; null while one is being written or none waits. Valid until Written.
  const Message* Next() {
    if (writing_ || waiting_.empty()) return nullptr;
    writing_ = true;
    return &waiting_.front().message;
  }

  // The write of the message that Next gave has ended.
  void Written() {
    bytes_ -= waiting_.front().bytes;
    waiting_.pop_front();
    writing_ = false;
  }

  size_t bytes() const { return bytes_; }
  bool empty() const { return waiting_.empty(); }

 private:
  struct Item {
    Message message;
    size_t bytes;
  };

  const size_t max_bytes_;
  std::deque<Item> waiting_;  // the front one is being written when writing_
  size_t bytes_ = 0;
  bool writing_ = false;
};

}  // namespace fathom
