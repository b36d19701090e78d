#pragma once

// How a model marks the parts of its output in plain text: where it reasons, where it calls a
// tool. Known by the marks its vocabulary holds; a configuration may say otherwise. Pure data.

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "text/text.h"

namespace fathom::master {

enum class ReasoningStyle : uint8_t {
  kNone,
  kThink,  // <think> ... </think> before the answer (Qwen 3, DeepSeek R1 and their kin)
};

enum class ToolStyle : uint8_t {
  kNone,
  kHermes,  // <tool_call> {"name": ..., "arguments": {...}} </tool_call> (Hermes, Qwen 2.5 and 3)
};

struct OutputFormat {
  ReasoningStyle reasoning = ReasoningStyle::kNone;
  ToolStyle tools = ToolStyle::kNone;
};

inline constexpr std::string_view kThinkBegin = "<think>";
inline constexpr std::string_view kThinkEnd = "</think>";
inline constexpr std::string_view kToolCallBegin = "<tool_call>";
inline constexpr std::string_view kToolCallEnd = "</tool_call>";

// What the configuration wants: "auto" (or empty) looks at the vocabulary, "none" splits nothing
// off, else the style's name ("think", "hermes").
struct OutputFormatChoice {
  std::string_view reasoning;
  std::string_view tools;
};

// INVALID_ARGUMENT for a style nobody knows.
absl::StatusOr<OutputFormat> ChooseOutputFormat(const OutputFormatChoice& choice,
                                                const text::Tokenizer& tokenizer);

}  // namespace fathom::master
