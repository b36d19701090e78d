#pragma once

// What a master needs of a model to speak for it: tokenizer, chat template, limits and defaults.
// Weights are the workers' business. Immutable, so any thread may read it.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/domain.h"
#include "master/models/output_format.h"
#include "text/text.h"

namespace fathom::master {

// What generation_config.json says about sampling; it applies where a client says nothing.
struct SamplingDefaults {
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

// What the chat template expects of messages, beyond what all do.
struct TemplateTraits {
  bool knows_developer = false;    // the role; elsewhere it is the system's
  bool arguments_as_text = false;  // a tool call's arguments are JSON text, not an object
  bool knows_reasoning = false;    // it writes or cuts out </think>: the model reasons by habit
};

struct ServedModelInfo {
  std::string name;     // as workers know it; "chat@7" for version 7 of chat
  std::string base;     // without the version
  int64_t version = 1;  // a model of the configuration has this one
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::shared_ptr<const text::ChatTemplate> chat_template;  // null: the model has none
  TemplateTraits template_traits;
  OutputFormat output_format;
  int32_t context_length = 0;  // tokens, prompt and output together
  int32_t vocab_size = 0;      // of the logits
  SamplingDefaults defaults;
  std::string config_digest;     // SHA-256 of config.json, hex
  std::string tokenizer_digest;  // SHA-256 of tokenizer.json, hex
  absl::Time created;
  std::string pool;  // of workers that may run it; empty: any that have it
};

using ModelPtr = std::shared_ptr<const ServedModelInfo>;

// Reads a directory in Hugging Face layout. Errors name the file. `do_sample: false` in
// generation_config.json counts as temperature 0.
absl::StatusOr<ModelPtr> LoadServedModel(const std::string& directory, const std::string& name,
                                         absl::Time now, const OutputFormatChoice& format = {},
                                         const std::string& pool = {});

}  // namespace fathom::master
