// Requests of the two public gRPC services, whatever a client's message holds: taken within the
// bounds, or refused with words.

#include <cmath>
#include <variant>

#include "common/check.h"
#include "fathom/v1/inference.pb.h"
#include "fuzz/feedback.h"
#include "fuzz/frames.h"
#include "fuzz/model.h"
#include "inference/kserve.pb.h"
#include "master/api/grpc_convert.h"
#include "master/api/kserve_request.h"
#include "master/serving/prompt.h"

namespace fathom::master {
namespace {

const fuzz::Frames& Messages() {
  static const auto& frames =
      *new fuzz::Frames({{"generate", &v1::GenerateRequest::default_instance()},
                         {"infer", &inference::ModelInferRequest::default_instance()}});
  return frames;
}

void CheckGeneration(uint64_t place, const GenerationRequest& request) {
  FATHOM_CHECK(request.sampling.temperature >= 0, "temperature");
  FATHOM_CHECK(request.sampling.top_p > 0 && request.sampling.top_p <= 1, "top_p");
  FATHOM_CHECK(std::isfinite(request.sampling.repetition_penalty), "repetition_penalty");
  FATHOM_CHECK(request.stop.max_tokens >= 0 && request.stop.min_tokens >= 0, "tokens");
  FATHOM_CHECK(request.n >= 1 && request.timeout <= absl::Minutes(10), "n or timeout");
  fuzz::CheckSound(place, PreparePrompt(request).status());
}

void Generate(const v1::GenerateRequest& message) {
  const auto request = FromProto(message, fuzz::TestCatalog(), {});
  fuzz::CheckSound(0, request.status());
  if (request.ok()) CheckGeneration(1, *request);
}

void Infer(const inference::ModelInferRequest& message) {
  const auto request =
      ReadKserveRequest(message, fuzz::TestCatalog(), absl::Minutes(10), {.id = "0123"});
  fuzz::CheckSound(2, request.status());
  if (request.ok()) CheckGeneration(3, request->generation);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const fuzz::Frame& frame : Messages().Read(data, size)) {
    if (frame.kind == 0) {
      Generate(static_cast<const v1::GenerateRequest&>(*frame.message));
    } else {
      Infer(static_cast<const inference::ModelInferRequest&>(*frame.message));
    }
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t size_max,
                                          unsigned seed) {
  return Messages().Mutate(data, size, size_max, seed);
}

}  // namespace fathom::master
