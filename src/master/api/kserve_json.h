#pragma once

// The Open Inference Protocol's messages as HTTP carries them: JSON, with tensors as bytes after it
// where a client wants that, and Triton's flat form for text. Pure.

#include <google/protobuf/message.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "inference/kserve.pb.h"
#include "master/api/http_exchange.h"
#include "master/api/kserve_request.h"

namespace fathom::master {

// The request's JSON and, after `json_bytes` of it, the tensors that are sent as bytes. Without
// `json_bytes` all of it is JSON. Model and version are not set.
absl::StatusOr<inference::ModelInferRequest> ReadInferBody(std::string_view body,
                                                           std::optional<size_t> json_bytes);
// {"text_input": "...", "max_tokens": 5, "parameters": {...}}: inputs and parameters side by side.
absl::StatusOr<inference::ModelInferRequest> ReadGenerateBody(std::string_view body);

// A whole answer; `outputs` say which tensors go as bytes.
HttpReply InferReply(const inference::ModelInferResponse& response,
                     const std::vector<KserveOutput>& outputs);
// The flat form.
std::string GenerateBody(const inference::ModelInferResponse& response);

// Any other message: its own names, numbers as numbers, nothing left out but unset messages.
std::string MessageJson(const google::protobuf::Message& message);

// {"error":"..."}
std::string KserveErrorBody(std::string_view message);
HttpReply KserveError(const absl::Status& status);
HttpReply KserveError(int http_status, std::string_view message);

}  // namespace fathom::master
