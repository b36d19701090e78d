#pragma once

// What a worker says of itself, made part of what its master knows of it. A worker may say
// anything: figures are brought into a range that can be reckoned with, names and texts are cut.
// Pure.

#include "absl/status/status.h"
#include "fathom/v1/link.pb.h"
#include "master/fleet/fleet.h"

namespace fathom::master {

// Beyond this, counts of a worker say nothing more; sums of a few fit.
inline constexpr int32_t kWorkerCountMax = 1 << 24;

// REQUIRES: `hello` has passed CheckHello.
WorkerInfo InfoOf(const v1::Hello& hello);

// Figures, state and memory; true when it takes work now and did not before, or the reverse.
bool Apply(const v1::Heartbeat& heartbeat, WorkerInfo* info);

// INVALID_ARGUMENT for names that are none and for more models than a worker may have.
absl::Status Apply(const v1::ModelState& state, WorkerInfo* info);

}  // namespace fathom::master
