#include "text/c_api_util.h"
#include "text/text.h"

namespace fathom::text {

void Tokenizer::Free::operator()(fathom_tokenizer* p) const { fathom_tokenizer_free(p); }

Tokenizer::Tokenizer(fathom_tokenizer* handle)
    : handle_(handle), digest_(View(fathom_tokenizer_digest(handle))) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromDirectory(
    std::string_view directory) {
  fathom_tokenizer* handle = nullptr;
  OwnedBuffer error;
  const int32_t code = fathom_tokenizer_from_directory(Borrow(directory), &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(handle));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(
    std::string_view tokenizer_json) {
  fathom_tokenizer* handle = nullptr;
  OwnedBuffer error;
  const int32_t code = fathom_tokenizer_from_json(Borrow(tokenizer_json), &handle, error.out());
  if (code != 0) return ToStatus(code, error);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(handle));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                       EncodeOptions options) const {
  fathom_ids ids = {};
  OwnedBuffer error;
  const int32_t code =
      fathom_tokenizer_encode(handle_.get(), Borrow(text), options.add_special_tokens,
                              options.parse_special, &ids, error.out());
  if (code != 0) return ToStatus(code, error);
  std::vector<TokenId> result(ids.data, ids.data + ids.size);
  fathom_ids_free(ids);
  return result;
}

absl::StatusOr<std::vector<std::vector<TokenId>>> Tokenizer::EncodeBatch(
    std::span<const std::string> texts, EncodeOptions options) const {
  std::vector<std::vector<TokenId>> batch;
  batch.reserve(texts.size());
  for (const std::string& text : texts) {
    auto ids = Encode(text, options);
    if (!ids.ok()) return ids.status();
    batch.push_back(*std::move(ids));
  }
  return batch;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const TokenId> ids,
                                              bool skip_special_tokens) const {
  OwnedBuffer text;
  OwnedBuffer error;
  const int32_t code = fathom_tokenizer_decode(handle_.get(), ids.data(), ids.size(),
                                               skip_special_tokens, text.out(), error.out());
  if (code != 0) return ToStatus(code, error);
  return std::string(text.view());
}

int32_t Tokenizer::vocab_size() const { return fathom_tokenizer_vocab_size(handle_.get()); }

std::optional<TokenId> Tokenizer::TokenToId(std::string_view token) const {
  const int32_t id = fathom_tokenizer_token_to_id(handle_.get(), Borrow(token));
  if (id < 0) return std::nullopt;
  return id;
}

std::optional<std::string> Tokenizer::IdToToken(TokenId id) const {
  OwnedBuffer token;
  if (!fathom_tokenizer_id_to_token(handle_.get(), id, token.out())) return std::nullopt;
  return std::string(token.view());
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  return View(fathom_tokenizer_token_bytes(handle_.get(), id));
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return fathom_tokenizer_is_special(handle_.get(), id);
}

const std::string& Tokenizer::digest() const { return digest_; }

}  // namespace fathom::text
