// KServe's HTTP bodies, tensors as JSON, as bytes after it, and Triton's flat form: what is taken
// fits its shape, and a request means the same whichever way its tensors came.

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "common/check.h"
#include "common/strings.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "fuzz/model.h"
#include "master/api/kserve_json.h"
#include "master/api/kserve_request.h"
#include "master/api/kserve_tensor.h"

namespace fathom::master {
namespace {

namespace json = boost::json;

using Message = inference::ModelInferRequest;

void CheckInputs(Message message) {
  const auto inputs = TakeInputs(message);
  fuzz::CheckSound(2, inputs.status());
  if (!inputs.ok()) return;
  for (const KserveInput& input : *inputs) {
    const auto texts = BytesElements(input);
    if (texts.ok()) FATHOM_CHECK(texts->size() == input.num_elements, "elements lost");
    const auto ids = TokenElements(input);
    if (ids.ok()) FATHOM_CHECK(ids->size() == input.num_elements, "ids lost");
    fuzz::CheckSound(3, ScalarElement(input).status());
  }
}

// The same request with every tensor as bytes after the JSON.
std::pair<std::string, size_t> AsBinary(const Message& message) {
  json::array inputs;
  std::string bytes;
  for (int i = 0; i < message.inputs_size(); ++i) {
    const auto& tensor = message.inputs(i);
    const std::string& data = message.raw_input_contents(i);
    inputs.push_back(
        json::object{{"name", tensor.name()},
                     {"datatype", tensor.datatype()},
                     {"shape", json::array(tensor.shape().begin(), tensor.shape().end())},
                     {"parameters", {{"binary_data_size", data.size()}}}});
    bytes += data;
  }
  std::string head = json::serialize(json::object{{"id", message.id()}, {"inputs", inputs}});
  const size_t head_bytes = head.size();
  return {std::move(head) + bytes, head_bytes};
}

void CheckBinary(const Message& message) {
  const auto [body, head_bytes] = AsBinary(message);
  const auto again = ReadInferBody(body, head_bytes);
  FATHOM_CHECK(again.ok(), "tensors as bytes are refused");
  FATHOM_CHECK(again->inputs_size() == message.inputs_size(), "another number of inputs");
  for (int i = 0; i < message.inputs_size(); ++i) {
    FATHOM_CHECK(again->inputs(i).SerializeAsString() == message.inputs(i).SerializeAsString() &&
                     again->raw_input_contents(i) == message.raw_input_contents(i),
                 "another tensor");
  }
}

void CheckMessage(uint64_t place, absl::StatusOr<Message> message) {
  fuzz::CheckSound(place, message.status());
  if (!message.ok()) return;
  FATHOM_CHECK(message->inputs_size() == message->raw_input_contents_size(),
               "a tensor without data");
  CheckInputs(*message);
  message->set_model_name("m");
  const auto request =
      ReadKserveRequest(*message, fuzz::TestCatalog(), absl::Minutes(1), {.id = "0123"});
  fuzz::CheckSound(4, request.status());
  if (!request.ok()) return;
  FATHOM_CHECK(request->generation.timeout <= absl::Minutes(1), "timeout");
  FATHOM_CHECK(!request->outputs.empty() || message->outputs_size() > 0, "no outputs");
}

}  // namespace

// A number: how much of the rest is JSON, all when it is none; a newline; the body.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  std::optional<size_t> json_bytes;
  size_t number = 0;
  if (absl::SimpleAtoi(ToAbsl(input.Line()), &number)) json_bytes = number;
  const std::string_view body = input.Rest();

  const auto infer = ReadInferBody(body, json_bytes);
  CheckMessage(0, infer);
  if (infer.ok()) CheckBinary(*infer);
  CheckMessage(1, ReadGenerateBody(body));
  return 0;
}

}  // namespace fathom::master
