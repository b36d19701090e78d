#include "master/api/openai_prompt.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "master/api/openai_messages.h"
#include "master/api/openai_tools.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kEffortBytesMax = 32;

std::string ReadMessages(Fields& fields, std::string_view body, const ServedModelInfo& model) {
  const json::array* messages = fields.Array("messages");
  if (messages == nullptr) {
    fields.Fail("messages", "is required");
    return {};
  }
  // The client's own bytes where they can be cut out, else the parsed value written anew.
  const auto own = RawMember(body, "messages");
  const std::string raw = own ? std::string(*own) : json::serialize(*messages);
  absl::StatusOr<std::string> rewritten = RewriteMessages(*messages, raw, model);
  if (rewritten.ok()) return *std::move(rewritten);
  fields.Keep(rewritten.status());
  return {};
}

// What the template sees beside messages and tools. How hard to think is for the template to say;
// one that does not know it ignores it.
std::string ReadTemplateArguments(Fields& fields, std::string_view body) {
  const json::object* arguments = fields.Object("chat_template_kwargs");
  std::string out;
  if (arguments != nullptr) {
    const auto own = RawMember(body, "chat_template_kwargs");
    out = own ? std::string(*own) : json::serialize(*arguments);
  }
  std::string effort;
  if (!fields.Read("reasoning_effort", kEffortBytesMax, effort)) return out;
  std::string merged = R"({"reasoning_effort":)";
  AppendJsonString(merged, effort);
  // The client's own argument of that name comes later and counts.
  if (arguments == nullptr || arguments->empty()) return merged + "}";
  return absl::StrCat(merged, ",", out.substr(out.find('{') + 1));
}

std::optional<std::vector<TokenId>> TokenIds(const json::array& array) {
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (const json::value& value : array) {
    if (!value.is_int64() || value.as_int64() < 0 ||
        value.as_int64() > std::numeric_limits<TokenId>::max()) {
      return std::nullopt;
    }
    ids.push_back(static_cast<TokenId>(value.as_int64()));
  }
  return ids;
}

std::optional<PromptInput> OnePrompt(const json::value& value) {
  if (value.is_string()) return TextPrompt{std::string(value.as_string())};
  if (!value.is_array()) return std::nullopt;
  auto ids = TokenIds(value.as_array());
  if (!ids) return std::nullopt;
  return TokenPrompt{*std::move(ids)};
}

}  // namespace

void ReadChat(Fields& fields, std::string_view body, GenerationRequest& request) {
  ChatPrompt prompt;
  prompt.messages_json = ReadMessages(fields, body, *request.model);
  ChatTools tools = ReadTools(fields, body);
  prompt.tools_json = std::move(tools.shown_json);
  request.tool_use = std::move(tools.use);
  prompt.template_args_json = ReadTemplateArguments(fields, body);
  request.prompt = std::move(prompt);
}

std::vector<PromptInput> ReadPrompts(Fields& fields, size_t prompts_max) {
  std::vector<PromptInput> prompts;
  const json::value* value = fields.Find("prompt");
  if (value == nullptr) {
    fields.Fail("prompt", "is required");
    return prompts;
  }
  const json::array* list = value->if_array();
  const bool many = list != nullptr && !list->empty() && !list->front().is_number();
  if (many && list->size() > prompts_max) {
    fields.Fail("prompt", absl::StrCat("must not have more than ", prompts_max, " prompts"));
    return prompts;
  }
  for (size_t i = 0; i < (many ? list->size() : 1); ++i) {
    std::optional<PromptInput> prompt = OnePrompt(many ? (*list)[i] : *value);
    if (!prompt) {
      fields.Fail("prompt", "must be a string, an array of token ids, or an array of either");
      return prompts;
    }
    prompts.push_back(*std::move(prompt));
  }
  return prompts;
}

}  // namespace fathom::master
