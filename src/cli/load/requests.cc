#include "cli/load/requests.h"

#include <boost/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

std::string PromptMember(const LoadItem& item, bool as_chat) {
  if (const auto* chat = std::get_if<ChatPrompt>(&item.prompt)) {
    return absl::StrCat(R"("messages":)", chat->messages_json);
  }
  if (const auto* tokens = std::get_if<TokenPrompt>(&item.prompt)) {
    return absl::StrCat(R"("prompt":[)", absl::StrJoin(*tokens, ","), "]");
  }
  const std::string text = json::serialize(json::string(std::get<TextPrompt>(item.prompt).text));
  if (!as_chat) return absl::StrCat(R"("prompt":)", text);
  return absl::StrCat(R"("messages":[{"role":"user","content":)", text, "}]");
}

}  // namespace

std::optional<SimulatedTextCheck> CheckFor(const LoadItem& item, const RequestOptions& options) {
  if (!options.check_simulated) return std::nullopt;
  const auto* tokens = std::get_if<TokenPrompt>(&item.prompt);
  if (tokens == nullptr) return SimulatedTextCheck();
  return SimulatedTextCheck(HistoryOf(*tokens));
}

OpenAiRequest ToOpenAi(const LoadItem& item, const RequestOptions& options, bool as_chat) {
  const bool chat = std::holds_alternative<ChatPrompt>(item.prompt) ||
                    (as_chat && std::holds_alternative<TextPrompt>(item.prompt));
  std::string body = absl::StrCat(R"({"model":)", json::serialize(json::string(options.model)), ",",
                                  PromptMember(item, as_chat), R"(,"temperature":0)");
  if (!options.unary) body += R"(,"stream":true,"stream_options":{"include_usage":true})";
  if (item.output_len > 0) absl::StrAppend(&body, R"(,"max_tokens":)", item.output_len);
  if (options.ignore_eos) body += R"(,"ignore_eos":true)";
  body += '}';
  return {chat ? "/v1/chat/completions" : "/v1/completions", std::move(body)};
}

v1::GenerateRequest ToGrpc(const LoadItem& item, const RequestOptions& options) {
  v1::GenerateRequest request;
  request.set_model(options.model);
  if (const auto* tokens = std::get_if<TokenPrompt>(&item.prompt)) {
    request.mutable_tokens()->mutable_ids()->Add(tokens->begin(), tokens->end());
  } else if (const auto* text = std::get_if<TextPrompt>(&item.prompt)) {
    request.set_text(text->text);
  } else {
    request.mutable_chat()->set_messages_json(std::get<ChatPrompt>(item.prompt).messages_json);
  }
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_max_tokens(item.output_len);
  request.mutable_stop()->set_ignore_eos(options.ignore_eos);
  return request;
}

}  // namespace fathom::cli
