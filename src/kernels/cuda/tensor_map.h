#pragma once

// Descriptors for tensor copies of row-major matrices of 16-bit elements in boxes of 64 columns,
// laid out in shared memory with rows of 128 bytes under the 128-byte swizzle: 16-byte piece p of
// row r lies at piece p ^ (r % 8). What lies outside the matrix is read as zeros.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels::cuda {

// `data` is aligned to 16 bytes and cols a multiple of 8; box_rows is at most 256.
cudaError_t EncodeTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                            int32_t box_rows, CUtensorMap* out);

// The same of a matrix that stacks two: the first half of a box's rows comes from the first half of
// the matrix, the second from the second, each from its own row on. A third coordinate, 0, goes
// with it.
cudaError_t EncodeHalvesTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                                  int32_t box_rows, CUtensorMap* out);

// The same in steps of 8: eight rows of a box come from the first half of the matrix, the next
// eight from the second. rows and box_rows are multiples of 16; the coordinates of the box that
// begins at `row` are (column, 0, 0, row / 16).
cudaError_t EncodePairsTensorMap(const void* data, int32_t rows, int32_t cols, DType dtype,
                                 int32_t box_rows, CUtensorMap* out);

}  // namespace fathom::kernels::cuda
