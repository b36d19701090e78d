#include "worker/model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "common/status_macros.h"

namespace fathom::worker {
namespace {

constexpr int32_t kMaxPositions = 1 << 28;
// Rotations within the original context; published ones are 1 and 32.
constexpr double kMinBeta = 1e-6;
constexpr double kMaxBeta = 1e6;

// Everything a rope object may say; what is missing here changes the mathematics in a way that
// nobody has implemented.
constexpr std::array<std::string_view, 15> kKnownFields = {"rope_theta",
                                                           "rope_type",
                                                           "type",
                                                           "factor",
                                                           "original_max_position_embeddings",
                                                           "low_freq_factor",
                                                           "high_freq_factor",
                                                           "beta_fast",
                                                           "beta_slow",
                                                           "attention_factor",
                                                           "mscale",
                                                           "mscale_all_dim",
                                                           "truncate",
                                                           "partial_rotary_factor",
                                                           "finetuned"};

absl::StatusOr<RopeKind> ParseKind(const JsonFields& rope) {
  ASSIGN_OR_RETURN(const std::string old_name, rope.StringOr("type", "default"));
  ASSIGN_OR_RETURN(const std::string kind, rope.StringOr("rope_type", old_name));
  if (kind == "default") return RopeKind::kDefault;
  if (kind == "linear") return RopeKind::kLinear;
  if (kind == "llama3") return RopeKind::kLlama3;
  if (kind == "yarn") return RopeKind::kYarn;
  return rope.NotImplemented("rope_type", kind);
}

double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

absl::Status ParseYarn(const JsonFields& rope, RopeConfig& out) {
  ASSIGN_OR_RETURN(out.beta_fast, rope.NumberOr("beta_fast", 32));
  ASSIGN_OR_RETURN(out.beta_slow, rope.NumberOr("beta_slow", 1));
  ASSIGN_OR_RETURN(out.truncate, rope.BoolOr("truncate", true));
  ASSIGN_OR_RETURN(const double mscale, rope.NumberOr("mscale", 0));
  ASSIGN_OR_RETURN(const double mscale_all_dim, rope.NumberOr("mscale_all_dim", 0));
  double scale = YarnScale(out.factor, 1);
  if (mscale != 0 && mscale_all_dim != 0) {
    scale = YarnScale(out.factor, mscale) / YarnScale(out.factor, mscale_all_dim);
  }
  ASSIGN_OR_RETURN(out.attention_scale, rope.NumberOr("attention_factor", scale));
  if (!std::isfinite(out.attention_scale)) return rope.Wrong("mscale", "makes no finite scale");
  for (const double beta : {out.beta_fast, out.beta_slow}) {
    if (beta < kMinBeta || beta > kMaxBeta) {
      return rope.Wrong("beta_fast", "it or beta_slow is not in [1e-6, 1e6]");
    }
  }
  return absl::OkStatus();
}

absl::Status ParseScaling(const JsonFields& rope, int32_t max_positions, RopeConfig& out) {
  for (const auto& [key, value] : rope.object()) {
    const std::string_view field(key.data(), key.size());
    if (!value.is_null() && std::ranges::find(kKnownFields, field) == kKnownFields.end()) {
      return rope.NotImplemented(field, "this field");
    }
  }
  ASSIGN_OR_RETURN(const double partial, rope.NumberOr("partial_rotary_factor", 1));
  if (partial != 1) return rope.NotImplemented("partial_rotary_factor", "a value other than 1");
  ASSIGN_OR_RETURN(out.kind, ParseKind(rope));
  ASSIGN_OR_RETURN(out.theta, rope.NumberOr("rope_theta", out.theta));
  if (out.kind == RopeKind::kDefault) return absl::OkStatus();

  if (!rope.Has("factor")) return rope.Wrong("factor", "missing");
  ASSIGN_OR_RETURN(out.factor, rope.NumberOr("factor", 1));
  if (out.factor < 1) return rope.Wrong("factor", "less than 1");
  ASSIGN_OR_RETURN(out.original_max_positions,
                   rope.IntOr("original_max_position_embeddings", max_positions, 1, kMaxPositions));
  if (out.kind == RopeKind::kLlama3) {
    ASSIGN_OR_RETURN(out.low_freq_factor, rope.NumberOr("low_freq_factor", 1));
    ASSIGN_OR_RETURN(out.high_freq_factor, rope.NumberOr("high_freq_factor", 4));
    // They are used as FP32, where close ones may be one.
    if (out.low_freq_factor <= 0 ||
        static_cast<float>(out.high_freq_factor) <= static_cast<float>(out.low_freq_factor)) {
      return rope.Wrong("high_freq_factor", "not above low_freq_factor");
    }
  }
  if (out.kind == RopeKind::kYarn) return ParseYarn(rope, out);
  return absl::OkStatus();
}

void ScaleLlama3(const RopeConfig& rope, std::vector<float>& frequencies) {
  const auto context = static_cast<float>(rope.original_max_positions);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto high = static_cast<float>(rope.high_freq_factor);
  const auto factor = static_cast<float>(rope.factor);
  for (float& frequency : frequencies) {
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    if (wavelength > context / low) {
      frequency /= factor;
    } else if (wavelength >= context / high) {
      const float smooth = (context / wavelength - low) / (high - low);
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

// The dimension whose wavelength makes `rotations` turns within the original context.
double CorrectionDim(const RopeConfig& rope, double rotations, int32_t head_dim) {
  return head_dim * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

void ScaleYarn(const RopeConfig& rope, int32_t head_dim, std::vector<float>& frequencies) {
  double low = CorrectionDim(rope, rope.beta_fast, head_dim);
  double high = CorrectionDim(rope, rope.beta_slow, head_dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const auto ramp =
        static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    const float interpolated = frequencies[i] / static_cast<float>(rope.factor);
    frequencies[i] = interpolated * ramp + frequencies[i] * (1 - ramp);
  }
}

}  // namespace

absl::StatusOr<RopeConfig> ParseRope(const JsonFields& config, int32_t max_positions) {
  RopeConfig out;
  ASSIGN_OR_RETURN(out.theta, config.NumberOr("rope_theta", out.theta));
  const std::string_view field = config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (const boost::json::value* value = config.Find(field); value != nullptr) {
    if (!value->is_object()) return config.Wrong(field, "not an object");
    const JsonFields rope(value->as_object(), config.name() + ": " + std::string(field));
    RETURN_IF_ERROR(ParseScaling(rope, max_positions, out));
  }
  if (out.theta <= 1) return config.Wrong("rope_theta", "not above 1");
  return out;
}

std::vector<float> InverseFrequencies(const RopeConfig& rope, int32_t head_dim) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim) / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    frequencies[i] = 1.0F / std::pow(static_cast<float>(rope.theta), exponent);
  }
  switch (rope.kind) {
    case RopeKind::kDefault:
      break;
    case RopeKind::kLinear:
      for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
      break;
    case RopeKind::kLlama3:
      ScaleLlama3(rope, frequencies);
      break;
    case RopeKind::kYarn:
      ScaleYarn(rope, head_dim, frequencies);
      break;
  }
  return frequencies;
}

}  // namespace fathom::worker
