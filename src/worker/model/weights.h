#pragma once

// From tensors of a checkpoint to weights of a backend. A Slice is the part that one rank of a
// group holds, so that a sharded model reads its weights through the same calls. Thread safety:
// none.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "worker/model/tensor_source.h"

namespace fathom::worker {

// Part `rank` of `of` equal parts along dimension `dim`.
struct Slice {
  int32_t dim = 0;
  int32_t rank = 0;
  int32_t of = 1;
};

// A matrix of the checkpoint and the shape it must have there.
struct MatrixSource {
  std::string tensor;
  int64_t rows = 0;
  int64_t cols = 0;
  Slice slice;
};

struct VectorSource {
  std::string tensor;
  int64_t size = 0;
  Slice slice;
};

// Rows to look up, kept in the type they are stored in (F16 becomes F32).
struct EmbeddingTable {
  kernels::DeviceBuffer data;  // [rows, cols] dtype
  DType dtype = DType::kF32;
};

class WeightReader {
 public:
  // Matrices are packed as the backend wants them for activations of `compute_dtype`. The source
  // and the backend outlive the reader.
  WeightReader(const TensorSource* source, kernels::Backend* backend, DType compute_dtype)
      : source_(source), backend_(backend), compute_dtype_(compute_dtype) {}

  // The sources' slices, stacked along the rows.
  absl::StatusOr<std::unique_ptr<kernels::PackedMatrix>> Matrix(
      std::span<const MatrixSource> sources) const;
  // The sources' slices in FP32, one after the other.
  absl::StatusOr<kernels::DeviceBuffer> Vector(std::span<const VectorSource> sources) const;
  absl::StatusOr<EmbeddingTable> Table(const MatrixSource& source) const;

 private:
  // A slice of a tensor; `copy` holds its bytes where they are not contiguous in the file.
  struct Part {
    kernels::TensorView view;
    std::vector<char> copy;
  };
  absl::StatusOr<Part> Read(const std::string& tensor, std::span<const int64_t> shape,
                            const Slice& slice) const;

  const TensorSource* const source_;
  kernels::Backend* const backend_;
  const DType compute_dtype_;
};

}  // namespace fathom::worker
