#include "master/api/sampling_fields.h"

#include <algorithm>
#include <boost/json/array.hpp>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kStopStringsMax = 16;
constexpr size_t kStopBytesMax = 4096;
constexpr float kTemperatureMax = 100;
constexpr float kPositive = 1e-6f;

}  // namespace

void ReadSampling(Fields& fields, const SamplingDefaults& defaults, GenerationRequest& request) {
  SamplingParams& sampling = request.sampling;
  sampling.temperature = defaults.temperature.value_or(1.0f);
  sampling.top_k = defaults.top_k.value_or(0);
  sampling.top_p = defaults.top_p.value_or(1.0f);
  sampling.min_p = defaults.min_p.value_or(0.0f);
  sampling.repetition_penalty = defaults.repetition_penalty.value_or(1.0f);
  fields.Read("temperature", 0, kTemperatureMax, sampling.temperature);
  fields.Read("top_p", kPositive, 1, sampling.top_p);
  fields.Read("min_p", 0, 1, sampling.min_p);
  fields.Read("presence_penalty", -2, 2, sampling.presence_penalty);
  fields.Read("frequency_penalty", -2, 2, sampling.frequency_penalty);
  fields.Read("repetition_penalty", kPositive, 100, sampling.repetition_penalty);
  // Others write -1 for "off".
  if (fields.Read("top_k", int64_t{-1}, int64_t{kTokensMax}, sampling.top_k)) {
    sampling.top_k = std::max(sampling.top_k, 0);
  }
  fields.Read("seed", request.seed);
}

void ReadStop(Fields& fields, GenerationRequest& request) {
  fields.Read("min_tokens", int64_t{0}, int64_t{kTokensMax}, request.stop.min_tokens);
  fields.Read("ignore_eos", request.stop.ignore_eos);
  const json::value* strings = fields.Find("stop");
  if (strings == nullptr) return;
  const json::array one{*strings};
  const json::array& list = strings->is_array() ? strings->as_array() : one;
  if (list.size() > kStopStringsMax) {
    return fields.Fail("stop",
                       absl::StrCat("must not have more than ", kStopStringsMax, " strings"));
  }
  for (const json::value& text : list) {
    if (!text.is_string() || text.as_string().empty() || text.as_string().size() > kStopBytesMax) {
      return fields.Fail("stop", absl::StrCat("must be a string or an array of strings of 1 to ",
                                              kStopBytesMax, " bytes"));
    }
    request.stop_strings.emplace_back(text.as_string());
  }
}

}  // namespace fathom::master
