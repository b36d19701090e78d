#pragma once

// The text of one choice: tokens in; certain text out, split into what the dialects show. Decoder,
// then stop strings, then the model's parsers. One thread at a time.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/domain.h"
#include "master/serving/generation_request.h"
#include "master/serving/output_parser.h"
#include "master/serving/stop_matcher.h"
#include "text/text.h"

namespace fathom::master {

class ChoiceText {
 public:
  // Stop strings count from the `min_tokens`th token on; text before is passed as it is.
  ChoiceText(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> stops,
             int32_t min_tokens, OutputParsers parsers = {});

  // Adds what became sure with this token to `delta`. Once stopped() the choice is over.
  absl::Status Push(TokenId token, GenerationDelta& delta);
  // Adds what was held back, at the end of the choice.
  absl::Status Finish(GenerationDelta& delta);
  bool stopped() const { return stops_.stopped(); }
  // Tokens of reasoning, its tags included, since the last call.
  int32_t TakeReasoningTokens() { return std::exchange(reasoning_tokens_, 0); }

 private:
  void Split(std::string text, GenerationDelta& delta);
  void Take(ReasoningSplit split, GenerationDelta& delta);
  static void Take(ToolSplit split, GenerationDelta& delta);

  text::StreamDecoder decoder_;
  StopMatcher stops_;
  OutputParsers parsers_;
  const int32_t min_tokens_;
  int32_t num_tokens_ = 0;
  int32_t reasoning_tokens_ = 0;
};

}  // namespace fathom::master
