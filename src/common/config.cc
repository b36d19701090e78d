#include "common/config.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kConfigBytesMax = 1 << 20;

absl::Status Error(const YAML::Node& node, const absl::string_view& what) {
  if (node.Mark().is_null()) return absl::InvalidArgumentError(what);
  return absl::InvalidArgumentError(absl::StrCat("line ", node.Mark().line + 1, ": ", what));
}

absl::Status FillMessage(const YAML::Node& node, Message* message);

template <typename T>
absl::StatusOr<T> Scalar(const YAML::Node& node, const FieldDescriptor* field) {
  T value{};
  if (!node.IsScalar() || !YAML::convert<T>::decode(node, value)) {
    const char* what = std::is_same_v<T, bool>       ? "true or false"
                       : std::is_floating_point_v<T> ? "a number"
                                                     : "a whole number";
    return Error(node, absl::StrCat("'", field->name(), "' takes ", what));
  }
  return value;
}

// Sets the field, or adds to it when it is repeated.
absl::Status PutScalar(const YAML::Node& node, Message* message, const FieldDescriptor* field) {
  const Reflection* reflection = message->GetReflection();
  const bool add = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      if (!node.IsScalar()) {
        return Error(node, absl::StrCat("'", field->name(), "' takes a string"));
      }
      add ? reflection->AddString(message, field, node.Scalar())
          : reflection->SetString(message, field, node.Scalar());
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      ASSIGN_OR_RETURN(const bool value, Scalar<bool>(node, field));
      add ? reflection->AddBool(message, field, value) : reflection->SetBool(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      ASSIGN_OR_RETURN(const int32_t value, Scalar<int32_t>(node, field));
      add ? reflection->AddInt32(message, field, value)
          : reflection->SetInt32(message, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      ASSIGN_OR_RETURN(const int64_t value, Scalar<int64_t>(node, field));
      add ? reflection->AddInt64(message, field, value)
          : reflection->SetInt64(message, field, value);
      return absl::OkStatus();
    }
    default:
      return Error(node, absl::StrCat("'", field->name(), "' has a type that YAML cannot carry"));
  }
}

// map<string, string> only: the schema has no other.
absl::Status FillMap(const YAML::Node& node, Message* message, const FieldDescriptor* field) {
  if (!node.IsMap()) return Error(node, absl::StrCat("'", field->name(), "' takes a map"));
  const Descriptor* entry = field->message_type();
  for (const auto& item : node) {
    Message* added = message->GetReflection()->AddMessage(message, field);
    RETURN_IF_ERROR(PutScalar(item.first, added, entry->map_key()));
    RETURN_IF_ERROR(PutScalar(item.second, added, entry->map_value()));
  }
  return absl::OkStatus();
}

absl::Status FillField(const YAML::Node& node, Message* message, const FieldDescriptor* field) {
  const Reflection* reflection = message->GetReflection();
  if (field->is_map()) return FillMap(node, message, field);
  const bool is_message = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (!field->is_repeated()) {
    return is_message ? FillMessage(node, reflection->MutableMessage(message, field))
                      : PutScalar(node, message, field);
  }
  if (!node.IsSequence()) return Error(node, absl::StrCat("'", field->name(), "' takes a list"));
  for (const YAML::Node& item : node) {
    RETURN_IF_ERROR(is_message ? FillMessage(item, reflection->AddMessage(message, field))
                               : PutScalar(item, message, field));
  }
  return absl::OkStatus();
}

absl::Status FillMessage(const YAML::Node& node, Message* message) {
  const Descriptor* descriptor = message->GetDescriptor();
  if (!node.IsMap()) return Error(node, absl::StrCat("'", descriptor->name(), "' takes a map"));
  for (const auto& item : node) {
    if (!item.first.IsScalar()) return Error(item.first, "a key must be a name");
    const FieldDescriptor* field = descriptor->FindFieldByName(item.first.Scalar());
    if (field == nullptr) {
      return Error(item.first,
                   absl::StrCat("unknown key '", item.first.Scalar(), "' in ", descriptor->name()));
    }
    RETURN_IF_ERROR(FillField(item.second, message, field));
  }
  return absl::OkStatus();
}

void EmitMessage(const Message& message, YAML::Emitter& out);

void EmitValue(const Message& message, const FieldDescriptor* field, int index,
               YAML::Emitter& out) {
  const Reflection* reflection = message.GetReflection();
  const bool repeated = index >= 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      out << YAML::DoubleQuoted
          << (repeated ? reflection->GetRepeatedString(message, field, index)
                       : reflection->GetString(message, field));
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      out << (repeated ? reflection->GetRepeatedBool(message, field, index)
                       : reflection->GetBool(message, field));
      break;
    case FieldDescriptor::CPPTYPE_INT32:
      out << (repeated ? reflection->GetRepeatedInt32(message, field, index)
                       : reflection->GetInt32(message, field));
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      out << (repeated ? reflection->GetRepeatedInt64(message, field, index)
                       : reflection->GetInt64(message, field));
      break;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      EmitMessage(repeated ? reflection->GetRepeatedMessage(message, field, index)
                           : reflection->GetMessage(message, field),
                  out);
      break;
    default:
      out << YAML::Null;
  }
}

void EmitRepeated(const Message& message, const FieldDescriptor* field, YAML::Emitter& out) {
  const Reflection* reflection = message.GetReflection();
  const int size = reflection->FieldSize(message, field);
  if (field->is_map()) {
    out << YAML::BeginMap;
    for (int i = 0; i < size; ++i) {
      const Message& entry = reflection->GetRepeatedMessage(message, field, i);
      out << YAML::Key;
      EmitValue(entry, field->message_type()->map_key(), -1, out);
      out << YAML::Value;
      EmitValue(entry, field->message_type()->map_value(), -1, out);
    }
    out << YAML::EndMap;
    return;
  }
  out << YAML::BeginSeq;
  for (int i = 0; i < size; ++i) EmitValue(message, field, i, out);
  out << YAML::EndSeq;
}

void EmitMessage(const Message& message, YAML::Emitter& out) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  out << YAML::BeginMap;
  for (const FieldDescriptor* field : fields) {
    out << YAML::Key << field->name() << YAML::Value;
    field->is_repeated() ? EmitRepeated(message, field, out) : EmitValue(message, field, -1, out);
  }
  out << YAML::EndMap;
}

}  // namespace

absl::StatusOr<config::Config> ParseConfig(std::string_view yaml) {
  config::Config config;
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (root.IsNull()) return config;
    RETURN_IF_ERROR(FillMessage(root, &config));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("line ", error.mark.line + 1, ": ", error.msg));
  }
  return config;
}

absl::StatusOr<config::Config> LoadConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kConfigBytesMax));
  absl::StatusOr<config::Config> config = ParseConfig(text);
  if (!config.ok()) {
    return absl::Status(config.status().code(),
                        absl::StrCat(path, ": ", config.status().message()));
  }
  return config;
}

std::string DumpConfig(const config::Config& config) {
  YAML::Emitter out;
  EmitMessage(config, out);
  return absl::StrCat(out.c_str(), "\n");
}

}  // namespace fathom
