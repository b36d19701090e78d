#pragma once

// The oracle: every operation as its definition reads, one element after the other, in FP32. Slow,
// single-threaded, and independent of batch and chunking by construction.

#include <memory>

#include "kernels/backend.h"

namespace fathom::kernels::cpu {

std::unique_ptr<Backend> CreateRefBackend();

}  // namespace fathom::kernels::cpu
