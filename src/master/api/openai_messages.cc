#include "master/api/openai_messages.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kMessagesMax = 4096;

absl::Status Bad(std::string_view where, std::string_view why) {
  return BadField("messages", absl::StrCat(ToAbsl(where), ToAbsl(why)));
}

bool IsString(const json::value* value, std::string_view text) {
  return value != nullptr && value->is_string() && value->as_string() == text;
}

// A call whose arguments are text that holds an object; the text, else null.
const json::string* ArgumentsText(const json::value& call) {
  const json::object* object = call.if_object();
  const json::value* function = object == nullptr ? nullptr : object->if_contains("function");
  const json::object* inner = function == nullptr ? nullptr : function->if_object();
  const json::value* arguments = inner == nullptr ? nullptr : inner->if_contains("arguments");
  if (arguments == nullptr || !arguments->is_string()) return nullptr;
  boost::system::error_code error;
  const json::value parsed = json::parse(arguments->as_string(), error);
  return !error && parsed.is_object() ? &arguments->as_string() : nullptr;
}

// Parsers take the last of several members of one name.
const RawEntry* LastOf(const std::vector<RawEntry>& members, std::string_view key) {
  const auto found = std::find_if(members.rbegin(), members.rend(),
                                  [key](const RawEntry& member) { return member.key == key; });
  return found == members.rend() ? nullptr : &*found;
}

const json::array* CallsOf(const json::object& message) {
  const json::value* calls = message.if_contains("tool_calls");
  return calls == nullptr ? nullptr : calls->if_array();
}

absl::Status CheckMessage(const std::string& where, const json::value& message) {
  const json::object* object = message.if_object();
  if (object == nullptr) return Bad(where, " must be an object");
  const json::value* role = object->if_contains("role");
  if (role == nullptr || !role->is_string() || role->as_string().empty()) {
    return Bad(where, ".role must be a string");
  }
  const json::value* content = object->if_contains("content");
  if (content == nullptr || content->is_null()) {
    if (role->as_string() != "assistant") return Bad(where, ".content is missing");
  } else if (!content->is_string() && !content->is_array()) {
    return Bad(where, ".content must be a string or an array of parts");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> JoinParts(const std::string& where, const json::array& parts) {
  std::string out;
  for (const json::value& part : parts) {
    const json::object* object = part.if_object();
    const json::value* text = object == nullptr ? nullptr : object->if_contains("text");
    if (object == nullptr || !IsString(object->if_contains("type"), "text") || text == nullptr ||
        !text->is_string()) {
      return Bad(where, ".content: only parts of type text are served");
    }
    if (&part != parts.data()) out += '\n';
    out.append(text->as_string().data(), text->as_string().size());
  }
  return out;
}

class Rewriter {
 public:
  explicit Rewriter(const ServedModelInfo& model) : traits_(model.template_traits) {}

  bool Needed(const json::object& message) const {
    const json::value* content = message.if_contains("content");
    return (content != nullptr && content->is_array()) || IsDeveloper(message) ||
           (!traits_.arguments_as_text && CallsOf(message) != nullptr);
  }

  // Appends the message, from its own bytes `raw` where nothing changes.
  absl::Status Append(const std::string& where, const json::object& message, std::string_view raw,
                      std::string& out) const {
    // A parser's writing spells no key with escapes, unless it must.
    const std::string plain = RawMembers(raw) ? std::string() : json::serialize(message);
    const auto members = RawMembers(plain.empty() ? raw : std::string_view(plain));
    if (!members || !Needed(message)) {
      out += raw;
      return absl::OkStatus();
    }
    const RawEntry* content = LastOf(*members, "content");
    const RawEntry* calls = LastOf(*members, "tool_calls");
    char before = '{';
    for (const RawEntry& member : *members) {
      // What is rewritten from the parsed value is of the last one; its forerunners count for
      // nothing.
      if (member.key == "content" && &member != content) continue;
      if (member.key == "tool_calls" && &member != calls) continue;
      out += before;
      absl::StrAppend(&out, "\"", ToAbsl(member.key), "\":");
      RETURN_IF_ERROR(AppendMember(where, message, member, out));
      before = ',';
    }
    out += '}';
    return absl::OkStatus();
  }

 private:
  bool IsDeveloper(const json::object& message) const {
    return !traits_.knows_developer && IsString(message.if_contains("role"), "developer");
  }

  absl::Status AppendMember(const std::string& where, const json::object& message,
                            const RawEntry& member, std::string& out) const {
    const json::value& value = message.at({member.key.data(), member.key.size()});
    if (member.key == "content" && value.is_array()) {
      ASSIGN_OR_RETURN(const std::string text, JoinParts(where, value.as_array()));
      AppendJsonString(out, text);
    } else if (member.key == "role" && IsDeveloper(message)) {
      out += "\"system\"";
    } else if (member.key == "tool_calls" && value.is_array() && !traits_.arguments_as_text) {
      AppendCalls(value.as_array(), member.value, out);
    } else {
      out += member.value;
    }
    return absl::OkStatus();
  }

  static void AppendCalls(const json::array& calls, std::string_view raw, std::string& out) {
    const auto elements = RawElements(raw);
    out += '[';
    for (size_t i = 0; i < calls.size(); ++i) {
      if (i > 0) out += ',';
      const json::string* text = ArgumentsText(calls[i]);
      const std::string_view own = elements->at(i);
      const auto function = RawMember(own, "function");
      const auto arguments = function ? RawMember(*function, "arguments") : std::nullopt;
      if (text == nullptr || !arguments) {
        out += own;
        continue;
      }
      const size_t at = static_cast<size_t>(arguments->data() - own.data());
      out += own.substr(0, at);
      out.append(text->data(), text->size());
      out += own.substr(at + arguments->size());
    }
    out += ']';
  }

  const TemplateTraits traits_;
};

}  // namespace

absl::StatusOr<std::string> RewriteMessages(const json::array& messages, std::string_view raw,
                                            const ServedModelInfo& model) {
  if (messages.empty() || messages.size() > kMessagesMax) {
    return Bad("", absl::StrCat("messages must have 1 to ", kMessagesMax, " messages"));
  }
  const Rewriter rewriter(model);
  bool needed = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(CheckMessage(absl::StrCat("messages[", i, "]"), messages[i]));
    needed = needed || rewriter.Needed(messages[i].as_object());
  }
  if (!needed) return std::string(raw);
  const auto elements = RawElements(raw);
  std::string out;
  out.reserve(raw.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    out += i == 0 ? '[' : ',';
    RETURN_IF_ERROR(rewriter.Append(absl::StrCat("messages[", i, "]"), messages[i].as_object(),
                                    elements->at(i), out));
  }
  out += ']';
  return out;
}

absl::StatusOr<std::string> RewriteMessages(std::string_view messages_json,
                                            const ServedModelInfo& model) {
  boost::system::error_code error;
  const json::value messages = json::parse({messages_json.data(), messages_json.size()}, error);
  if (error || !messages.is_array()) return Bad("", "messages is no JSON array");
  return RewriteMessages(messages.as_array(), messages_json, model);
}

}  // namespace fathom::master
