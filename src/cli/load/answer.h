#pragma once

// One request as it went: the times that count, the tokens, its end. Times are monotonic
// nanoseconds.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "cli/load/simulated_text.h"

namespace fathom::cli {

struct Answer {
  absl::Status status;       // of the whole request
  int64_t scheduled_ns = 0;  // when it should have been sent; latencies count from here
  int64_t sent_ns = 0;
  int64_t first_ns = 0;  // of the first output; 0: none came
  int64_t end_ns = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t pieces = 0;          // messages with output; a server may put several tokens in one
  std::vector<float> gaps_ms;  // between pieces

  double ttft_ms() const { return static_cast<double>(first_ns - scheduled_ns) * 1e-6; }
  double e2e_ms() const { return static_cast<double>(end_ns - scheduled_ns) * 1e-6; }
  // Mean time of a token after the first; nothing for answers of one.
  std::optional<double> tpot_ms() const;
};

// Gathers an Answer while it comes. One thread at a time.
class AnswerMeter {
 public:
  // With a check the text must be a simulated worker's, to its last token.
  AnswerMeter(int64_t scheduled_ns, std::optional<SimulatedTextCheck> check)
      : check_(std::move(check)) {
    answer_.scheduled_ns = scheduled_ns;
  }

  void OnSent(int64_t now_ns) { answer_.sent_ns = now_ns; }
  void OnPiece(int64_t now_ns, std::string_view text);
  void OnUsage(int64_t prompt_tokens, int64_t output_tokens);
  // The end. An answer without output is an error, and so is one that fails its check.
  Answer Finish(absl::Status status, int64_t now_ns);

 private:
  Answer answer_;
  std::optional<SimulatedTextCheck> check_;
  absl::Status check_status_;
  int64_t last_ns_ = 0;
};

}  // namespace fathom::cli
