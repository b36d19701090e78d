#pragma once

// The CPU backend that serves: kernels for AVX2, AVX-512 and AMX, chosen at run time, on a small
// thread pool of its own.

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_features.h"

namespace fathom::kernels::cpu {

struct FastOptions {
  int32_t threads = 0;  // 0: one a core this process may use
  // Results do not depend on batch or chunking. The cost: FP32 products of many rows stay with our
  // own kernels instead of oneDNN's, whose reduction order may follow the number of rows.
  bool batch_invariant = false;
};

// FailedPrecondition on a processor without AVX2 and FMA: the reference backend runs there.
absl::StatusOr<std::unique_ptr<Backend>> CreateFastBackend(const FastOptions& options);

// With the kernels of `isa`, which the processor must have.
std::unique_ptr<Backend> CreateFastBackend(const FastOptions& options, Isa isa);

}  // namespace fathom::kernels::cpu
