#pragma once

// The public gRPC messages to and from the structs of serving. Pure.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fathom/v1/inference.pb.h"
#include "master/models/catalog.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

struct GrpcBounds {
  int32_t choices = 16;
  absl::Duration timeout_max = absl::Minutes(10);
};

// Tenant and priority are not set. The messages are consumed: large strings move.
absl::StatusOr<GenerationRequest> FromProto(v1::GenerateRequest request, const Catalog& catalog,
                                            const GrpcBounds& bounds, const ModelDraw& draw = {});

// A chat as the template is to see it, and which calls its answer may hold.
absl::StatusOr<PromptInput> ReadChatInput(const v1::ChatInput& chat, const ServedModelInfo& model,
                                          ToolUse& tool_use);

// Into a message that is empty, with what memory it has from the one before.
void Fill(GenerationDelta delta, const ServedModelInfo& model, v1::GenerateResponse& out);
v1::Usage ToProto(const GenerationUsage& usage);

}  // namespace fathom::master
