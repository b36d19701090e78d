#pragma once

// Between the fleet's structs and the link's messages. Pure functions. What comes from a worker is
// checked here: a message that breaks the protocol is an error, never a surprise further in.

#include "absl/status/statusor.h"
#include "fathom/v1/link.pb.h"
#include "master/fleet/fleet.h"

namespace fathom::master {

inline constexpr int kLinkProtocol = 1;
inline constexpr size_t kWorkerModelsMax = 64;

v1::Submit ToMessage(const Submission& submission);

// INVALID_ARGUMENT for unknown finish reasons and for logprobs that do not match their tokens.
absl::StatusOr<SubmissionOutput> FromMessage(const v1::StepOutput& message);

// INVALID_ARGUMENT for empty or oversized names, too many models or labels, and an incarnation that
// is not 128 bits; FAILED_PRECONDITION for a protocol version this build does not speak.
absl::Status CheckHello(const v1::Hello& hello);

// What a worker says of a model: INVALID_ARGUMENT for names and scopes that are none.
absl::Status CheckModelName(const std::string& name);
absl::Status CheckModel(const v1::LoadedModel& model);

ServedModel FromMessage(const v1::LoadedModel& model);
v1::Load ToMessage(const LoadOrder& order, uint64_t epoch);

}  // namespace fathom::master
