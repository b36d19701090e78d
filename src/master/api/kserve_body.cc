// Request bodies of kserve_json.h.

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/api/fields.h"
#include "master/api/kserve_json.h"
#include "master/api/kserve_tensor.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

constexpr size_t kNameBytesMax = 256;
constexpr size_t kTensorsMax = 64;
constexpr size_t kRankMax = 8;
constexpr int64_t kInt32Max = (int64_t{1} << 31) - 1;

using Parameters = google::protobuf::Map<std::string, inference::InferParameter>;

absl::Status SetParameter(const std::string& name, const json::value& value, Parameters& out) {
  inference::InferParameter& parameter = out[name];
  switch (value.kind()) {
    case json::kind::bool_:
      parameter.set_bool_param(value.as_bool());
      return absl::OkStatus();
    case json::kind::int64:
      parameter.set_int64_param(value.as_int64());
      return absl::OkStatus();
    case json::kind::uint64:
      parameter.set_uint64_param(value.as_uint64());
      return absl::OkStatus();
    case json::kind::double_:
      parameter.set_double_param(value.as_double());
      return absl::OkStatus();
    case json::kind::string:
      parameter.set_string_param(std::string(value.as_string()));
      return absl::OkStatus();
    default: {
      const std::string shown = name.substr(0, kNameBytesMax);
      return BadField(shown,
                      absl::StrCat("'", shown, "': must be a number, a text or a truth value"));
    }
  }
}

absl::Status SetParameters(const json::object& object, Parameters& out) {
  for (const json::key_value_pair& member : object) {
    RETURN_IF_ERROR(SetParameter(std::string(member.key()), member.value(), out));
  }
  return absl::OkStatus();
}

// Arrays may be nested as the shape is, or flat.
absl::Status AppendAll(const std::string& name, inference::DataType type, const json::value& value,
                       std::string& data) {
  if (!value.is_array()) return AppendElement(name, type, value, data);
  for (const json::value& element : value.as_array()) {
    RETURN_IF_ERROR(AppendAll(name, type, element, data));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadData(Fields& fields, const std::string& name,
                                     inference::DataType type, std::string_view& bytes) {
  int32_t size = -1;
  if (const json::object* object = fields.Object("parameters")) {
    Fields parameters(*object, "inputs.parameters.");
    parameters.Read("binary_data_size", int64_t{0}, kInt32Max, size);
    parameters.CheckUnread();
    RETURN_IF_ERROR(parameters.status());
  }
  const json::array* list = fields.Array("data");
  if ((size >= 0) == (list != nullptr)) {
    return BadField(name,
                    absl::StrCat("input '", name, "': needs either data or binary_data_size"));
  }
  std::string data;
  if (list != nullptr) {
    RETURN_IF_ERROR(AppendAll(name, type, *fields.Find("data"), data));
    return data;
  }
  if (static_cast<size_t>(size) > bytes.size()) {
    return BadField(name, absl::StrCat("input '", name, "': the body ends before its bytes do"));
  }
  data = bytes.substr(0, size);
  bytes.remove_prefix(size);
  return data;
}

absl::Status ReadInput(const json::value& value, std::string_view& bytes,
                       inference::ModelInferRequest& out) {
  if (!value.is_object()) return BadField("inputs", "'inputs': must be objects");
  Fields fields(value.as_object(), "inputs.");
  auto& tensor = *out.add_inputs();
  fields.Read("name", kNameBytesMax, *tensor.mutable_name());
  fields.Read("datatype", kNameBytesMax, *tensor.mutable_datatype());
  const inference::DataType type = DataTypeOf(tensor.datatype());
  if (type == inference::TYPE_INVALID) fields.Fail("datatype", "is no datatype of the protocol");
  const json::array* shape = fields.Array("shape");
  if (shape == nullptr || shape->size() > kRankMax) {
    fields.Fail("shape", absl::StrCat("must be an array of at most ", kRankMax, " numbers"));
  }
  RETURN_IF_ERROR(fields.status());
  for (const json::value& size : *shape) {
    if (!size.is_int64()) {
      fields.Fail("shape", "must hold whole numbers");
      return fields.status();
    }
    tensor.add_shape(size.as_int64());
  }
  ASSIGN_OR_RETURN(*out.add_raw_input_contents(), ReadData(fields, tensor.name(), type, bytes));
  fields.CheckUnread();
  return fields.status();
}

absl::Status ReadOutput(const json::value& value, inference::ModelInferRequest& out) {
  if (!value.is_object()) return BadField("outputs", "'outputs': must be objects");
  Fields fields(value.as_object(), "outputs.");
  auto& tensor = *out.add_outputs();
  fields.Read("name", kNameBytesMax, *tensor.mutable_name());
  if (const json::object* parameters = fields.Object("parameters")) {
    RETURN_IF_ERROR(SetParameters(*parameters, *tensor.mutable_parameters()));
  }
  fields.CheckUnread();
  return fields.status();
}

// What a flat member is: the prompt and lists are inputs, the rest are parameters.
absl::Status ReadFlat(std::string_view body, const std::string& name, const json::value& value,
                      inference::ModelInferRequest& out) {
  const bool prompt = name == "text_input" || name == "messages" || name == "input_ids";
  if (!prompt && !value.is_array()) {
    if (out.parameters().contains(name)) {
      return BadField(name.substr(0, kNameBytesMax),
                      absl::StrCat("'", name.substr(0, kNameBytesMax), "' comes twice"));
    }
    return SetParameter(name, value, *out.mutable_parameters());
  }
  const auto type = name == "input_ids" ? inference::TYPE_INT64 : inference::TYPE_STRING;
  auto& tensor = *out.add_inputs();
  tensor.set_name(name);
  tensor.set_datatype(std::string(DataTypeName(type)));
  std::string& data = *out.add_raw_input_contents();
  if (name == "messages" && value.is_array()) {
    // As the client wrote it: the template may look at the order of keys.
    const auto raw = RawMember(body, name);
    AppendBytesElement(raw ? std::string(*raw) : json::serialize(value), data);
    tensor.add_shape(1);
    return absl::OkStatus();
  }
  tensor.add_shape(value.is_array() ? static_cast<int64_t>(value.as_array().size()) : 1);
  return AppendAll(name, type, value, data);
}

}  // namespace

absl::StatusOr<inference::ModelInferRequest> ReadInferBody(std::string_view body,
                                                           std::optional<size_t> json_bytes) {
  if (json_bytes && *json_bytes > body.size()) {
    return absl::InvalidArgumentError("Inference-Header-Content-Length is more than the body has");
  }
  std::string_view bytes = body.substr(json_bytes.value_or(body.size()));
  ASSIGN_OR_RETURN(const json::object object,
                   ParseJsonObject(body.substr(0, body.size() - bytes.size())));
  inference::ModelInferRequest out;
  Fields fields(object);
  fields.Read("id", kNameBytesMax, *out.mutable_id());
  if (const json::object* parameters = fields.Object("parameters")) {
    RETURN_IF_ERROR(SetParameters(*parameters, *out.mutable_parameters()));
  }
  const json::array* inputs = fields.Array("inputs");
  const json::array* outputs = fields.Array("outputs");
  for (const json::array* list : {inputs, outputs}) {
    if (list != nullptr && list->size() > kTensorsMax) {
      return BadField("inputs", absl::StrCat("at most ", kTensorsMax, " inputs and outputs"));
    }
  }
  if (inputs == nullptr) fields.Fail("inputs", "is required");
  fields.CheckUnread();
  RETURN_IF_ERROR(fields.status());
  for (const json::value& input : *inputs) RETURN_IF_ERROR(ReadInput(input, bytes, out));
  if (outputs != nullptr) {
    for (const json::value& output : *outputs) RETURN_IF_ERROR(ReadOutput(output, out));
  }
  if (!bytes.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(bytes.size(), " bytes after the JSON belong to no input"));
  }
  return out;
}

absl::StatusOr<inference::ModelInferRequest> ReadGenerateBody(std::string_view body) {
  ASSIGN_OR_RETURN(const json::object object, ParseJsonObject(body));
  inference::ModelInferRequest out;
  Fields fields(object);
  fields.Read("id", kNameBytesMax, *out.mutable_id());
  if (const json::object* parameters = fields.Object("parameters")) {
    RETURN_IF_ERROR(SetParameters(*parameters, *out.mutable_parameters()));
  }
  RETURN_IF_ERROR(fields.status());
  for (const json::key_value_pair& member : object) {
    const std::string name(member.key());
    if (name == "id" || name == "parameters" || member.value().is_null()) continue;
    RETURN_IF_ERROR(ReadFlat(body, name, member.value(), out));
  }
  return out;
}

}  // namespace fathom::master
