#include "master/api/tokenize_call.h"

#include <boost/asio/post.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/json_text.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/errors.h"
#include "master/api/fields.h"
#include "master/api/find_model.h"
#include "master/api/openai_prompt.h"
#include "master/api/openai_request.h"
#include "master/serving/failure.h"
#include "master/serving/prompt.h"

namespace fathom::master {
namespace {

// Bodies are bounded already.
constexpr size_t kTextBytesMax = size_t{1} << 30;

absl::StatusOr<PromptInput> ReadInput(Fields& fields, std::string_view body, const ModelPtr& model,
                                      TokenizeOptions& options) {
  fields.Read("add_special_tokens", options.add_special_tokens);
  if (fields.Find("messages") != nullptr) {
    GenerationRequest request;
    request.model = model;
    ReadChat(fields, body, request);
    fields.Read("add_generation_prompt", options.add_generation_prompt);
    return std::move(request.prompt);
  }
  TextPrompt prompt;
  if (!fields.Read("prompt", kTextBytesMax, prompt.text)) {
    fields.Fail("prompt", "is required, or messages");
  }
  return PromptInput(std::move(prompt));
}

}  // namespace

absl::StatusOr<std::string> TokenizeBody(std::string_view body, const Catalog& catalog) {
  ASSIGN_OR_RETURN(const boost::json::object object, ParseJsonObject(body));
  Fields fields(object);
  ASSIGN_OR_RETURN(const std::string name, ReadModelName(fields));
  ASSIGN_OR_RETURN(const ModelPtr model, FindNamedModel(catalog, name, {}, "model"));
  TokenizeOptions options;
  bool with_strings = false;
  fields.Read("return_token_strs", with_strings);
  ASSIGN_OR_RETURN(const PromptInput input, ReadInput(fields, body, model, options));
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  ASSIGN_OR_RETURN(const TokenizedPrompt prompt, TokenizePrompt(*model, input, options));
  std::string out = absl::StrCat(R"({"count":)", prompt.tokens.size(), R"(,"max_model_len":)",
                                 model->context_length, R"(,"tokens":[)",
                                 absl::StrJoin(prompt.tokens, ","), R"(],"token_strs":)");
  if (!with_strings) return out + "null}";
  out += '[';
  for (size_t i = 0; i < prompt.tokens.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonString(out, model->tokenizer->IdToToken(prompt.tokens[i]).value_or(""));
  }
  return out + "]}";
}

absl::StatusOr<std::string> DetokenizeBody(std::string_view body, const Catalog& catalog) {
  ASSIGN_OR_RETURN(const boost::json::object object, ParseJsonObject(body));
  Fields fields(object);
  ASSIGN_OR_RETURN(const std::string name, ReadModelName(fields));
  ASSIGN_OR_RETURN(const ModelPtr model, FindNamedModel(catalog, name, {}, "model"));
  const boost::json::array* tokens = fields.Array("tokens");
  if (tokens == nullptr) fields.Fail("tokens", "is required");
  std::vector<TokenId> ids;
  for (size_t i = 0; tokens != nullptr && i < tokens->size(); ++i) {
    const boost::json::value& id = (*tokens)[i];
    if (!id.is_int64() || id.as_int64() < 0 || id.as_int64() >= model->vocab_size) {
      fields.Fail("tokens", absl::StrCat("must be token ids below ", model->vocab_size));
      break;
    }
    ids.push_back(static_cast<TokenId>(id.as_int64()));
  }
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  ASSIGN_OR_RETURN(const std::string text,
                   model->tokenizer->Decode(ids, /*skip_special_tokens=*/false));
  std::string out = R"({"prompt":)";
  AppendJsonString(out, text);
  return out + "}";
}

void AnswerOnPool(BodyFunction function, Serving& serving, HttpCall call,
                  const std::shared_ptr<HttpExchange>& exchange) {
  const bool accepted = serving.pool().Submit(
      [function, &serving, body = std::move(call.body), exchange, strand = exchange->strand()] {
        const absl::StatusOr<std::string> answer = function(body, *serving.catalog());
        auto reply = std::make_shared<HttpReply>(answer.ok() ? HttpReply{.body = *answer}
                                                             : ErrorReply(answer.status()));
        const std::string error(Message(answer.status()));
        boost::asio::post(strand, [exchange, reply, error] {
          exchange->record().error = error;
          exchange->Reply(std::move(*reply));
        });
      });
  if (accepted) return;
  exchange->Reply(ErrorReply(WithRetryAfter(
      absl::ResourceExhaustedError("too many prompts wait for tokenising"), absl::Seconds(1))));
}

}  // namespace fathom::master
