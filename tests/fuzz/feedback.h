#pragma once

// Tells libFuzzer what its coverage does not show: errors of code that is not instrumented (the
// Rust library, gRPC). An input with an error not seen before is kept and built upon.

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace fathom::fuzz {

// Counts `feature` as covered; features may share a counter.
void Reached(uint64_t feature);

// Counts the error as covered: its code and words, without what they quote and without numbers.
// `place` tells one use from another.
void Reached(uint64_t place, const absl::Status& status);

// A failure must be a proper one: it says something, at bearable length.
void CheckSound(uint64_t place, const absl::Status& status);

}  // namespace fathom::fuzz
