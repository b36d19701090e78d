#include "worker/model/forward_check.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

absl::Status Bad(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("forward input: ", what));
}

absl::Status CheckSequences(const ForwardInput& input, const ForwardLimits& limits) {
  int64_t next_token = 0;
  int64_t next_row = 0;
  for (const SequenceInput& sequence : input.sequences) {
    if (sequence.slot < 0 || sequence.slot >= limits.max_sequences) {
      return Bad(absl::StrCat("slot ", sequence.slot, " of ", limits.max_sequences));
    }
    if (sequence.query_len < 1 || sequence.context_len < 0 ||
        sequence.context_len > std::numeric_limits<int32_t>::max() - sequence.query_len) {
      return Bad(absl::StrCat("slot ", sequence.slot, ": query_len ", sequence.query_len,
                              ", context_len ", sequence.context_len));
    }
    if (sequence.first_token != next_token) {
      return Bad(absl::StrCat("slot ", sequence.slot, ": tokens are not in the sequences' order"));
    }
    next_token += sequence.query_len;
    if (sequence.num_logit_rows < 0 ||
        (sequence.num_logit_rows > 0 && sequence.first_logit_row != next_row)) {
      return Bad(
          absl::StrCat("slot ", sequence.slot, ": logit rows are not in the sequences' order"));
    }
    next_row += sequence.num_logit_rows;
    if (sequence.adapter_id != -1) {
      return absl::UnimplementedError("forward input: adapters are not implemented");
    }
  }
  if (next_token != input.num_tokens()) return Bad("sequences do not cover the tokens");
  if (next_row != static_cast<int64_t>(input.logit_rows.size())) {
    return Bad("sequences do not cover the logit rows");
  }
  return absl::OkStatus();
}

absl::Status CheckEmbeddings(const ForwardInput& input, const ForwardLimits& limits) {
  if (input.embeddings.size() % limits.hidden_size != 0) {
    return Bad("embeddings are not rows of the hidden size");
  }
  const auto rows = static_cast<int64_t>(input.embeddings.size() / limits.hidden_size);
  if (rows > limits.max_step_tokens) return Bad("more embeddings than tokens");
  for (const EmbeddingSpan& span : input.embedding_spans) {
    if (span.num_tokens < 0 || span.first_token < 0 || span.first_row < 0 ||
        span.num_tokens > input.num_tokens() - span.first_token ||
        span.num_tokens > rows - span.first_row) {
      return Bad("an embedding span lies outside the tokens or the embeddings");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckForwardInput(const ForwardInput& input, const ForwardLimits& limits) {
  const int32_t num_tokens = input.num_tokens();
  if (num_tokens < 1 || num_tokens > limits.max_step_tokens) {
    return Bad(absl::StrCat(num_tokens, " tokens; a step takes 1 to ", limits.max_step_tokens));
  }
  if (input.num_position_rows != 1) {
    return absl::UnimplementedError("forward input: multimodal positions are not implemented");
  }
  if (input.positions.size() != input.token_ids.size()) return Bad("positions do not match tokens");
  for (const int32_t position : input.positions) {
    if (position < 0) return Bad(absl::StrCat("position ", position));
  }
  for (const TokenId token : input.token_ids) {
    if (token != kTokenFromSlot && (token < 0 || token >= limits.vocab_size)) {
      return Bad(absl::StrCat("token ", token, " of a vocabulary of ", limits.vocab_size));
    }
  }
  if (input.logit_rows.size() > static_cast<size_t>(limits.max_logit_rows)) {
    return Bad(absl::StrCat(input.logit_rows.size(), " logit rows; a step gives at most ",
                            limits.max_logit_rows));
  }
  for (const int32_t row : input.logit_rows) {
    if (row < 0 || row >= num_tokens) return Bad(absl::StrCat("logit row ", row));
  }
  RETURN_IF_ERROR(CheckSequences(input, limits));
  return CheckEmbeddings(input, limits);
}

}  // namespace fathom::worker
