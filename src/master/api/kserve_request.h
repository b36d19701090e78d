#pragma once

// Inference requests of the Open Inference Protocol read into GenerationRequests, by the convention
// of language models: the prompt in exactly one of the inputs text_input, messages (a chat as JSON)
// and input_ids; sampling in further inputs or in the request's parameters. Strict: tensors,
// parameters and outputs that nobody knows are refused by name. Pure; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "inference/kserve.pb.h"
#include "master/api/resume.h"
#include "master/models/catalog.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

enum class KserveOutputKind : uint8_t { kText, kIds, kFinishReason };

struct KserveOutput {
  KserveOutputKind kind = KserveOutputKind::kText;
  bool binary = false;  // HTTP: after the JSON, as bytes
};

struct KserveRequest {
  std::string id;                // the client's own
  GenerationRequest generation;  // tenant is not set
  std::optional<bool> stream;
  bool empty_final_response = false;  // streams: the end comes as a response of its own
  std::vector<KserveOutput> outputs;  // in the order asked for
};

// The message is consumed: large strings move. `draw`: how the request will be called, by which a
// route's model is drawn.
absl::StatusOr<KserveRequest> ReadKserveRequest(inference::ModelInferRequest request,
                                                const Catalog& catalog, absl::Duration timeout_max,
                                                const RequestDraw& draw);

}  // namespace fathom::master
