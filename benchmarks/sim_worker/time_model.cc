#include "benchmarks/sim_worker/time_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace fathom::worker {
namespace {

// 15.0 GB of weights at 4.0 TB/s; 16 GFLOP a token at 640 TFLOP/s; 32 layers x 8 heads x 128 x K
// and V x 2 bytes at 4.1 TB/s.
constexpr TimeModel kH200With8B{.step_us = 3750,
                                .prefill_token_us = 25,
                                .decode_sequence_us = 1,
                                .kv_bytes_per_token = 131072,
                                .kv_bytes_per_us = 4.1e6};
constexpr double kNumberMax = 1e12;

constexpr std::array<std::pair<std::string_view, double TimeModel::*>, 5> kFields{{
    {"step_us", &TimeModel::step_us},
    {"prefill_token_us", &TimeModel::prefill_token_us},
    {"decode_sequence_us", &TimeModel::decode_sequence_us},
    {"kv_bytes_per_token", &TimeModel::kv_bytes_per_token},
    {"kv_bytes_per_us", &TimeModel::kv_bytes_per_us},
}};

}  // namespace

int64_t TimeModel::StepNs(const ForwardInput& input) const {
  double us = step_us;
  for (const SequenceInput& s : input.sequences) {
    us += decode_sequence_us + prefill_token_us * (s.query_len - 1) +
          kv_bytes_per_token * s.context_len / kv_bytes_per_us;
  }
  return static_cast<int64_t>(us * 1e3);
}

absl::StatusOr<TimeModel> ParseTimeModel(std::string_view text) {
  TimeModel model;
  bool first = true;
  for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
    if (std::exchange(first, false)) {
      if (part != "free" && part != "h200-8b") {
        return absl::InvalidArgumentError(absl::StrCat("time model '", part, "': free or h200-8b"));
      }
      if (part == "h200-8b") model = kH200With8B;
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const auto* field = std::find_if(kFields.begin(), kFields.end(),
                                     [&](const auto& f) { return ToAbsl(f.first) == pair.first; });
    double number = 0;
    if (field == kFields.end() || !absl::SimpleAtod(pair.second, &number) ||
        !(number >= 0 && number <= kNumberMax)) {
      return absl::InvalidArgumentError(absl::StrCat("time model: no such setting: '", part, "'"));
    }
    model.*(field->second) = number;
  }
  if (model.kv_bytes_per_us == 0) {
    return absl::InvalidArgumentError("time model: kv_bytes_per_us must be positive");
  }
  return model;
}

}  // namespace fathom::worker
