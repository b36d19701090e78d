#pragma once

// Answers in the form of the Open Inference Protocol: a whole one, or a piece of a stream. Pure.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "inference/kserve.pb.h"
#include "master/api/kserve_request.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

// What is the same in every response to one request.
struct KserveReplyInfo {
  std::string model;  // without its version
  int64_t version = 1;
  std::string id;  // the client's own
  std::vector<KserveOutput> outputs;
};

// A response with the outputs of `delta`, which may be a whole answer.
inference::ModelInferResponse KserveResponse(const KserveReplyInfo& info,
                                             const GenerationDelta& delta);
// A response that says nothing but whose it is.
inference::ModelInferResponse KserveEmptyResponse(const KserveReplyInfo& info);

void AddUsage(const GenerationUsage& usage, inference::ModelInferResponse& response);
// Streams: every response says whether it is the request's last.
void SetFinal(bool final, inference::ModelInferResponse& response);

// Deltas of one choice become one answer.
void Gather(GenerationDelta delta, GenerationDelta& answer);

}  // namespace fathom::master
