#pragma once

// What the GPU can do at best, measured beside what is held against it.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fathom::benchmarks {

// Bytes a second that all multiprocessors read from memory together: the median of several sweeps
// over a buffer many times the L2.
cudaError_t MeasureReadBandwidth(double* bytes_per_second);

}  // namespace fathom::benchmarks
