#pragma once

// The text of one choice: tokens in; certain text out. Decoder, then stop strings. One thread at a
// time.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/domain.h"
#include "master/serving/stop_matcher.h"
#include "text/text.h"

namespace fathom::master {

class ChoiceText {
 public:
  // Stop strings count from the `min_tokens`th token on; text before is passed as it is.
  ChoiceText(std::shared_ptr<const text::Tokenizer> tokenizer, std::vector<std::string> stops,
             int32_t min_tokens);

  // The text that became sure with this token. Once stopped() the choice is over.
  absl::StatusOr<std::string> Push(TokenId token);
  // What was held back, when the choice ended otherwise.
  absl::StatusOr<std::string> Finish();
  bool stopped() const { return stops_.stopped(); }

 private:
  text::StreamDecoder decoder_;
  StopMatcher stops_;
  const int32_t min_tokens_;
  int32_t num_tokens_ = 0;
};

}  // namespace fathom::master
