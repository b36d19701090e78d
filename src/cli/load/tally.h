#pragma once

// Answers added up to what a benchmark reports. Pure; one thread.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/load/answer.h"
#include "cli/load/samples.h"

namespace fathom::cli {

// What an answer must keep to be good. Unset: no matter.
struct Goodput {
  std::optional<double> ttft_ms;
  std::optional<double> itl_ms;  // the mean gap between the answer's tokens
  std::optional<double> e2e_ms;

  bool any() const { return ttft_ms || itl_ms || e2e_ms; }
  bool Kept(const Answer& answer) const;
};

// "ttft:200,itl:50,e2e:5000", in milliseconds, any of them. INVALID_ARGUMENT for anything else.
absl::StatusOr<Goodput> ParseGoodput(std::string_view text);

struct ErrorCount {
  int64_t count = 0;
  std::string first;  // message of the first one
};

class Tally {
 public:
  explicit Tally(Goodput goodput) : goodput_(goodput) {}

  void Add(const Answer& answer);

  int64_t ok() const { return ok_; }
  int64_t failed() const { return failed_; }
  int64_t good() const { return good_; }
  int64_t prompt_tokens() const { return prompt_tokens_; }  // of answers that are ok
  int64_t output_tokens() const { return output_tokens_; }
  int64_t pieces() const { return pieces_; }
  const Goodput& goodput() const { return goodput_; }
  const std::map<std::string, ErrorCount>& errors() const { return errors_; }  // by status code
  const absl::Status& first_error() const { return first_error_; }

  Summary ttft_ms() const { return Summarize(ttft_ms_); }
  Summary itl_ms() const { return Summarize(itl_ms_); }
  Summary tpot_ms() const { return Summarize(tpot_ms_); }
  Summary e2e_ms() const { return Summarize(e2e_ms_); }
  // How late requests were sent: the generator's own fault, or its cap on concurrency.
  Summary lateness_ms() const { return Summarize(lateness_ms_); }

 private:
  const Goodput goodput_;
  int64_t ok_ = 0;
  int64_t failed_ = 0;
  int64_t good_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t output_tokens_ = 0;
  int64_t pieces_ = 0;
  std::map<std::string, ErrorCount> errors_;
  absl::Status first_error_;
  std::vector<float> ttft_ms_;
  std::vector<float> itl_ms_;
  std::vector<float> tpot_ms_;
  std::vector<float> e2e_ms_;
  std::vector<float> lateness_ms_;
};

}  // namespace fathom::cli
