#include "text/c_api_util.h"
#include "text/text.h"

namespace fathom::text {

void StreamDecoder::Free::operator()(fathom_stream_decoder* p) const {
  fathom_stream_decoder_free(p);
}

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens)
    : handle_(fathom_stream_decoder_new(tokenizer->handle(), skip_special_tokens)) {}

StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

absl::StatusOr<std::string> StreamDecoder::Push(TokenId id) {
  fathom_bytes text = {};
  OwnedBuffer error;
  const int32_t code = fathom_stream_decoder_push(handle_.get(), id, &text, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::string(View(text));
}

absl::StatusOr<std::string> StreamDecoder::Flush() {
  fathom_bytes text = {};
  OwnedBuffer error;
  const int32_t code = fathom_stream_decoder_flush(handle_.get(), &text, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::string(View(text));
}

}  // namespace fathom::text
