#include "master/api/kserve_json.h"

#include <google/protobuf/descriptor.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_text.h"
#include "common/strings.h"
#include "master/api/errors.h"
#include "master/api/kserve_tensor.h"

namespace fathom::master {
namespace {

namespace json = boost::json;
namespace pb = google::protobuf;

template <typename T>
std::vector<T> Elements(const std::string& data) {
  std::vector<T> elements(data.size() / sizeof(T));
  std::memcpy(elements.data(), data.data(), elements.size() * sizeof(T));
  return elements;
}

// The elements of an output as a JSON array. Outputs are BYTES and INT32 alone.
void AppendData(std::string& out, const std::string& datatype, const std::string& data) {
  out += '[';
  const char* comma = "";
  if (datatype == "BYTES") {
    const KserveInput tensor{.type = inference::TYPE_STRING, .data = data};
    const auto elements = BytesElements(tensor);
    for (const std::string& element : *elements) {
      out += std::exchange(comma, ",");
      AppendJsonString(out, element);
    }
  } else {
    for (const int32_t element : Elements<int32_t>(data)) {
      out += std::exchange(comma, ",");
      AppendJsonNumber(out, int64_t{element});
    }
  }
  out += ']';
}

void AppendParameter(std::string& out, const inference::InferParameter& parameter) {
  if (parameter.has_bool_param()) {
    out += parameter.bool_param() ? "true" : "false";
  } else {
    AppendJsonNumber(out, parameter.int64_param());
  }
}

// `"name":value` for each, with commas between; in the order of names.
void AppendParameters(std::string& out, const inference::ModelInferResponse& response) {
  const std::map<std::string, inference::InferParameter> sorted(response.parameters().begin(),
                                                                response.parameters().end());
  const char* comma = "";
  for (const auto& [name, parameter] : sorted) {
    out += std::exchange(comma, ",");
    AppendJsonString(out, name);
    out += ':';
    AppendParameter(out, parameter);
  }
}

void AppendHead(std::string& out, const inference::ModelInferResponse& response) {
  out += R"({"model_name":)";
  AppendJsonString(out, response.model_name());
  out += R"(,"model_version":)";
  AppendJsonString(out, response.model_version());
  if (response.id().empty()) return;
  out += R"(,"id":)";
  AppendJsonString(out, response.id());
}

json::value ValueOf(const pb::Message& message, const pb::FieldDescriptor& field, int index);

json::object ObjectOf(const pb::Message& message) {
  json::object out;
  const pb::Descriptor& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const pb::FieldDescriptor& field = *type.field(i);
    if (!field.is_repeated()) {
      const bool unset =
          field.has_presence() && !message.GetReflection()->HasField(message, &field);
      if (!unset) out[field.name()] = ValueOf(message, field, -1);
      continue;
    }
    json::array list;
    const int size = message.GetReflection()->FieldSize(message, &field);
    for (int k = 0; k < size; ++k) list.push_back(ValueOf(message, field, k));
    out[field.name()] = std::move(list);
  }
  return out;
}

// Of the types that these messages have. `index` < 0: the field is single.
json::value ValueOf(const pb::Message& message, const pb::FieldDescriptor& field, int index) {
  const pb::Reflection& in = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      return json::value(one ? in.GetBool(message, &field)
                             : in.GetRepeatedBool(message, &field, index));
    case pb::FieldDescriptor::CPPTYPE_INT32:
      return json::value(one ? in.GetInt32(message, &field)
                             : in.GetRepeatedInt32(message, &field, index));
    case pb::FieldDescriptor::CPPTYPE_INT64:
      return json::value(one ? in.GetInt64(message, &field)
                             : in.GetRepeatedInt64(message, &field, index));
    case pb::FieldDescriptor::CPPTYPE_UINT64:
      return json::value(one ? in.GetUInt64(message, &field)
                             : in.GetRepeatedUInt64(message, &field, index));
    case pb::FieldDescriptor::CPPTYPE_ENUM:
      return json::value(json::string(
          (one ? in.GetEnum(message, &field) : in.GetRepeatedEnum(message, &field, index))
              ->name()));
    case pb::FieldDescriptor::CPPTYPE_MESSAGE:
      return ObjectOf(one ? in.GetMessage(message, &field)
                          : in.GetRepeatedMessage(message, &field, index));
    default:
      return json::value(json::string(one ? in.GetString(message, &field)
                                          : in.GetRepeatedString(message, &field, index)));
  }
}

}  // namespace

HttpReply InferReply(const inference::ModelInferResponse& response,
                     const std::vector<KserveOutput>& outputs) {
  HttpReply reply;
  std::string& out = reply.body;
  std::string bytes;
  bool any_binary = false;
  AppendHead(out, response);
  out += R"(,"parameters":{)";
  AppendParameters(out, response);
  out += R"(},"outputs":[)";
  for (int i = 0; i < response.outputs_size(); ++i) {
    const auto& tensor = response.outputs(i);
    const std::string& data = response.raw_output_contents(i);
    out += i == 0 ? R"({"name":)" : R"(,{"name":)";
    AppendJsonString(out, tensor.name());
    out += absl::StrCat(R"(,"datatype":")", tensor.datatype(), R"(","shape":[)", tensor.shape(0),
                        "],");
    if (outputs[i].binary) {
      any_binary = true;
      out += absl::StrCat(R"("parameters":{"binary_data_size":)", data.size(), "}}");
      bytes += data;
    } else {
      out += R"("data":)";
      AppendData(out, tensor.datatype(), data);
      out += '}';
    }
  }
  out += "]}";
  if (any_binary) {
    reply.content_type = "application/octet-stream";
    reply.headers.emplace_back("Inference-Header-Content-Length", absl::StrCat(out.size()));
    out += bytes;
  }
  return reply;
}

std::string GenerateBody(const inference::ModelInferResponse& response) {
  std::string out;
  AppendHead(out, response);
  for (int i = 0; i < response.outputs_size(); ++i) {
    const auto& tensor = response.outputs(i);
    out += ',';
    AppendJsonString(out, tensor.name());
    out += ':';
    std::string data;
    AppendData(data, tensor.datatype(), response.raw_output_contents(i));
    // Texts come alone, lists of tokens as lists.
    out += tensor.datatype() == "BYTES" ? data.substr(1, data.size() - 2) : data;
  }
  if (!response.parameters().empty()) {
    out += ',';
    AppendParameters(out, response);
  }
  out += '}';
  return out;
}

std::string MessageJson(const pb::Message& message) { return json::serialize(ObjectOf(message)); }

std::string KserveErrorBody(std::string_view message) {
  std::string out = R"({"error":)";
  AppendJsonString(out, message);
  out += '}';
  return out;
}

HttpReply KserveError(const absl::Status& status) {
  HttpReply reply = ErrorReply(status);
  reply.body = KserveErrorBody(Message(status));
  return reply;
}

HttpReply KserveError(int http_status, std::string_view message) {
  return {.status = http_status, .body = KserveErrorBody(message)};
}

}  // namespace fathom::master
