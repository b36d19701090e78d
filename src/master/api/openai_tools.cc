#include "master/api/openai_tools.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "common/strings.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kToolsMax = 512;
constexpr size_t kNameBytesMax = 256;

const json::object* FunctionOf(const json::value& tool) {
  const json::object* object = tool.if_object();
  const json::value* function = object == nullptr ? nullptr : object->if_contains("function");
  return function == nullptr ? nullptr : function->if_object();
}

// The function that a tool is, or that a choice names.
std::optional<std::string> NameOf(const json::value& tool) {
  const json::object* function = FunctionOf(tool);
  const json::value* name = function == nullptr ? nullptr : function->if_contains("name");
  if (name == nullptr || !name->is_string()) return std::nullopt;
  return std::string(name->as_string());
}

absl::StatusOr<Tool> ReadTool(const json::value& value, std::string_view raw, size_t index) {
  const auto bad = [index](std::string_view why) {
    return BadField("tools", absl::StrCat("tools[", index, "] ", ToAbsl(why)));
  };
  const json::object* object = value.if_object();
  const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
  const std::optional<std::string> name = NameOf(value);
  if (type == nullptr || !type->is_string() || type->as_string() != "function" || !name) {
    return bad("is no function with a name");
  }
  if (name->empty() || name->size() > kNameBytesMax) {
    return bad(absl::StrCat("has a name that is empty or longer than ", kNameBytesMax, " bytes"));
  }
  Tool tool{.name = *name};
  const json::object& function = *FunctionOf(value);
  const json::value* strict = function.if_contains("strict");
  if (strict != nullptr && !strict->is_null()) {
    if (!strict->is_bool()) return bad("has a strict that is not true or false");
    tool.strict = strict->as_bool();
  }
  const json::value* parameters = function.if_contains("parameters");
  if (parameters == nullptr || parameters->is_null()) return tool;
  if (!parameters->is_object()) return bad("has parameters that are no JSON schema");
  // Cut out where possible: order of properties is order of output.
  auto own = RawMember(raw, "function");
  if (own) own = RawMember(*own, "parameters");
  tool.parameters_json = own ? std::string(*own) : json::serialize(*parameters);
  return tool;
}

// Everything but the choice.
absl::StatusOr<ChatTools> ReadAll(const json::array& tools, std::string_view raw) {
  if (tools.size() > kToolsMax) {
    return BadField("tools", absl::StrCat("tools must not have more than ", kToolsMax, " tools"));
  }
  ChatTools out;
  if (tools.empty()) return out;
  out.shown_json = raw;
  const auto elements = RawElements(raw);
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string_view own =
        elements && i < elements->size() ? (*elements)[i] : std::string_view();
    absl::StatusOr<Tool> tool = ReadTool(tools[i], own, i);
    if (!tool.ok()) return tool.status();
    out.use.tools.push_back(*std::move(tool));
  }
  out.use.choice = ToolChoice::kAuto;
  return out;
}

// Only the named one is shown, and called once.
absl::StatusOr<ChatTools> Choose(ChatTools all, std::string_view name, std::string_view raw) {
  const auto found = std::find_if(all.use.tools.begin(), all.use.tools.end(),
                                  [name](const Tool& tool) { return tool.name == name; });
  if (found == all.use.tools.end()) {
    return BadField("tool_choice", "tool_choice names a function that is not among the tools");
  }
  const size_t index = static_cast<size_t>(found - all.use.tools.begin());
  const auto elements = RawElements(raw);
  ChatTools out;
  out.shown_json = absl::StrCat("[", ToAbsl(elements->at(index)), "]");
  out.use = {.choice = ToolChoice::kRequired, .parallel = false, .tools = {*found}};
  return out;
}

absl::StatusOr<ChatTools> Apply(const json::array& tools, std::string_view raw,
                                std::string_view choice, std::string_view named, bool parallel) {
  absl::StatusOr<ChatTools> all = ReadAll(tools, raw);
  if (!all.ok()) return all;
  all->use.parallel = parallel;
  if (!named.empty()) return Choose(*std::move(all), named, raw);
  if (choice == "none") return ChatTools();
  if (choice == "required") {
    if (tools.empty()) return BadField("tool_choice", "tool_choice needs tools");
    all->use.choice = ToolChoice::kRequired;
  }
  return all;
}

}  // namespace

ChatTools ReadTools(Fields& fields, std::string_view body) {
  const json::value* choice = fields.Find("tool_choice");
  const json::array* tools = fields.Array("tools");
  bool parallel = true;
  fields.Read("parallel_tool_calls", parallel);
  std::string word = "auto";
  std::string named;
  if (choice != nullptr && choice->is_string()) {
    word = choice->as_string();
    if (word != "auto" && word != "none" && word != "required") named = "\n";
  } else if (choice != nullptr) {
    named = NameOf(*choice).value_or("\n");
  }
  if (named == "\n") {
    fields.Fail("tool_choice", "must be \"none\", \"auto\", \"required\" or name a function");
    return {};
  }
  static const json::array kNone;
  if (tools == nullptr) tools = &kNone;
  std::string raw = json::serialize(*tools);
  if (const auto own = RawMember(body, "tools"); own && !tools->empty()) raw = *own;
  absl::StatusOr<ChatTools> read = Apply(*tools, raw, word, named, parallel);
  if (read.ok()) return *std::move(read);
  fields.Keep(read.status());
  return {};
}

absl::StatusOr<ChatTools> ReadTools(std::string_view tools_json, std::string_view choice,
                                    bool parallel) {
  json::value value = json::array();
  if (!tools_json.empty()) {
    boost::system::error_code error;
    value = json::parse({tools_json.data(), tools_json.size()}, error);
    if (error || !value.is_array()) return BadField("tools", "tools is no JSON array");
  }
  const bool word = choice.empty() || choice == "auto" || choice == "none" || choice == "required";
  return Apply(value.as_array(), tools_json, choice, word ? std::string_view() : choice, parallel);
}

}  // namespace fathom::master
