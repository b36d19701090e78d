#include "master/api/openai_prompt.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "master/api/json_text.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kMessagesMax = 4096;
constexpr size_t kToolsMax = 512;

// The client's own bytes where they can be cut out, else the parsed value written anew.
std::string RawOr(std::string_view body, std::string_view name, const json::value& value) {
  if (const auto raw = RawMember(body, name)) return std::string(*raw);
  return json::serialize(value);
}

// "content" as parts -> one text. False, after Fail, for anything but text parts.
bool JoinParts(Fields& fields, const std::string& where, const json::array& parts,
               std::string& out) {
  for (const json::value& part : parts) {
    const json::object* object = part.if_object();
    const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
    const json::value* text = object == nullptr ? nullptr : object->if_contains("text");
    if (type == nullptr || !type->is_string() || type->as_string() != "text" || text == nullptr ||
        !text->is_string()) {
      fields.Fail("messages", absl::StrCat(where, ".content: only parts of type text are served"));
      return false;
    }
    if (&part != parts.data()) out += '\n';
    out.append(text->as_string().data(), text->as_string().size());
  }
  return true;
}

// True when it had to be changed.
bool FlattenContent(Fields& fields, const std::string& where, json::object& message) {
  json::value* content = message.if_contains("content");
  if (content == nullptr || content->is_null() || content->is_string()) return false;
  if (!content->is_array()) {
    fields.Fail("messages", absl::StrCat(where, ".content must be a string or an array of parts"));
    return false;
  }
  std::string text;
  if (!JoinParts(fields, where, content->as_array(), text)) return false;
  *content = text;
  return true;
}

bool CheckMessage(Fields& fields, const std::string& where, const json::value& message) {
  const json::object* object = message.if_object();
  if (object == nullptr) {
    fields.Fail("messages", absl::StrCat(where, " must be an object"));
    return false;
  }
  const json::value* role = object->if_contains("role");
  if (role == nullptr || !role->is_string() || role->as_string().empty()) {
    fields.Fail("messages", absl::StrCat(where, ".role must be a string"));
    return false;
  }
  const json::value* content = object->if_contains("content");
  const bool empty = content == nullptr || content->is_null();
  if (empty && role->as_string() != "assistant") {
    fields.Fail("messages", absl::StrCat(where, ".content is missing"));
    return false;
  }
  return true;
}

std::string ReadMessages(Fields& fields, std::string_view body) {
  const json::array* messages = fields.Array("messages");
  if (messages == nullptr) {
    fields.Fail("messages", "is required");
    return {};
  }
  if (messages->empty() || messages->size() > kMessagesMax) {
    fields.Fail("messages", absl::StrCat("must have 1 to ", kMessagesMax, " messages"));
    return {};
  }
  const bool has_parts =
      std::any_of(messages->begin(), messages->end(), [](const json::value& message) {
        const json::object* object = message.if_object();
        const json::value* content = object == nullptr ? nullptr : object->if_contains("content");
        return content != nullptr && !content->is_null() && !content->is_string();
      });
  for (size_t i = 0; i < messages->size(); ++i) {
    if (!CheckMessage(fields, absl::StrCat("messages[", i, "]"), (*messages)[i])) return {};
  }
  if (!has_parts) return RawOr(body, "messages", *messages);
  json::array changed = *messages;
  for (size_t i = 0; i < changed.size(); ++i) {
    FlattenContent(fields, absl::StrCat("messages[", i, "]"), changed[i].as_object());
  }
  return json::serialize(changed);
}

// The tool a choice object names.
std::optional<std::string> NamedTool(const json::value& choice) {
  const json::object* object = choice.if_object();
  const json::value* function = object == nullptr ? nullptr : object->if_contains("function");
  const json::object* inner = function == nullptr ? nullptr : function->if_object();
  const json::value* name = inner == nullptr ? nullptr : inner->if_contains("name");
  if (name == nullptr || !name->is_string()) return std::nullopt;
  return std::string(name->as_string());
}

bool CheckTool(Fields& fields, size_t index, const json::value& tool) {
  const json::object* object = tool.if_object();
  const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
  const std::optional<std::string> name = NamedTool(tool);
  const bool good =
      type != nullptr && type->is_string() && type->as_string() == "function" && name.has_value();
  if (!good) {
    fields.Fail("tools", absl::StrCat("tools[", index, "] is no function with a name"));
  }
  return good;
}

// Empty for none.
std::string ReadTools(Fields& fields, std::string_view body) {
  const json::value* choice = fields.Find("tool_choice");
  const json::array* tools = fields.Array("tools");
  if (tools != nullptr && tools->size() > kToolsMax) {
    fields.Fail("tools", absl::StrCat("must not have more than ", kToolsMax, " tools"));
  }
  for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
    if (!CheckTool(fields, i, (*tools)[i])) return {};
  }
  const bool any = tools != nullptr && !tools->empty();
  if (choice == nullptr || (choice->is_string() && choice->as_string() == "auto")) {
    return any ? RawOr(body, "tools", *tools) : std::string();
  }
  if (choice->is_string() && choice->as_string() == "none") return {};
  if (choice->is_string() && choice->as_string() == "required") {
    fields.Fail("tool_choice", "\"required\" is not served yet; use \"auto\"");
    return {};
  }
  const std::optional<std::string> wanted = NamedTool(*choice);
  if (!wanted) {
    fields.Fail("tool_choice", "must be \"none\", \"auto\" or name a function");
    return {};
  }
  // Only that tool is shown to the model.
  json::array kept;
  for (size_t i = 0; any && i < tools->size(); ++i) {
    if (NamedTool((*tools)[i]) == wanted) kept.push_back((*tools)[i]);
  }
  if (kept.empty()) {
    fields.Fail("tool_choice", "names a function that is not among the tools");
    return {};
  }
  return json::serialize(kept);
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

ChatPrompt ReadChatPrompt(Fields& fields, std::string_view body) {
  ChatPrompt prompt;
  prompt.messages_json = ReadMessages(fields, body);
  prompt.tools_json = ReadTools(fields, body);
  if (const json::object* arguments = fields.Object("chat_template_kwargs")) {
    prompt.template_args_json = RawOr(body, "chat_template_kwargs", *arguments);
  }
  return prompt;
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
