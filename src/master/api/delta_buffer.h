#pragma once

// Deltas on their way to a client, bounded in bytes. What a slow client has not taken yet grows
// together: deltas of one choice that follow each other become one. One strand.

#include <cstddef>
#include <deque>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

class DeltaBuffer {
 public:
  explicit DeltaBuffer(size_t bytes_max) : bytes_max_(bytes_max) {}

  // CANCELLED when the client is too far behind.
  absl::Status Push(GenerationDelta delta) {
    bytes_ += BytesOf(delta);
    if (bytes_ > bytes_max_ && !deltas_.empty()) {
      return absl::CancelledError("the client reads too slowly: too much output waits for it");
    }
    if (!deltas_.empty() && deltas_.back().choice == delta.choice) {
      Append(deltas_.back(), std::move(delta));
    } else {
      deltas_.push_back(std::move(delta));
    }
    return absl::OkStatus();
  }

  std::optional<GenerationDelta> Pop() {
    if (deltas_.empty()) return std::nullopt;
    GenerationDelta delta = std::move(deltas_.front());
    deltas_.pop_front();
    bytes_ -= BytesOf(delta);
    return delta;
  }

  bool empty() const { return deltas_.empty(); }
  size_t bytes() const { return bytes_; }

 private:
  // About what it takes on the wire; logprobs are by far the largest part.
  static constexpr size_t kLogprobBytes = 64;
  static size_t BytesOf(const GenerationDelta& delta) {
    size_t positions = 0;
    for (const auto* list : {&delta.logprobs, &delta.prompt_logprobs}) {
      for (const PositionLogprobs& position : *list) positions += 1 + position.top.size();
    }
    size_t call_bytes = 0;
    for (const ToolCallDelta& call : delta.tool_calls) {
      call_bytes += call.id.size() + call.name.size() + call.arguments.size();
    }
    return call_bytes + delta.text.size() + delta.reasoning.size() +
           delta.tokens.size() * sizeof(TokenId) + positions * kLogprobBytes;
  }

  template <typename T>
  static void Extend(std::vector<T>& to, std::vector<T>&& from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  }

  static void Append(GenerationDelta& to, GenerationDelta&& from) {
    to.text += from.text;
    to.reasoning += from.reasoning;
    Extend(to.tool_calls, std::move(from.tool_calls));
    Extend(to.tokens, std::move(from.tokens));
    Extend(to.logprobs, std::move(from.logprobs));
    Extend(to.prompt_logprobs, std::move(from.prompt_logprobs));
    to.finish = from.finish;
  }

  const size_t bytes_max_;
  size_t bytes_ = 0;
  std::deque<GenerationDelta> deltas_;
};

}  // namespace fathom::master
