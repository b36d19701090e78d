#include "worker/model/weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "kernels/bfloat16.h"

namespace fathom::worker {
namespace {

using kernels::TensorView;

// Any float type as FP32; the source need not be aligned.
void AppendAsFloat(const TensorView& tensor, std::vector<float>& out) {
  const auto* bytes = static_cast<const char*>(tensor.data);
  const int64_t count = tensor.NumElements();
  for (int64_t i = 0; i < count; ++i) {
    if (tensor.dtype == DType::kF32) {
      float v;
      std::memcpy(&v, bytes + i * sizeof(v), sizeof(v));
      out.push_back(v);
    } else {
      uint16_t v;
      std::memcpy(&v, bytes + i * sizeof(v), sizeof(v));
      out.push_back(tensor.dtype == DType::kBF16 ? ToFloat(BFloat16{v}) : HalfToFloat(v));
    }
  }
}

}  // namespace

absl::StatusOr<WeightReader::Part> WeightReader::Read(const std::string& tensor,
                                                      std::span<const int64_t> shape,
                                                      const Slice& slice) const {
  Part part;
  ASSIGN_OR_RETURN(part.view, source_->Find(tensor, shape));
  TensorView& view = part.view;
  const auto wrong = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(source_->FileOf(tensor), ": tensor \"", tensor, "\": ", what));
  };
  if (!std::ranges::equal(shape, std::span(view.shape).first(view.rank))) {
    return wrong(absl::StrCat("shape is [",
                              absl::StrJoin(std::span(view.shape).first(view.rank), ", "),
                              "], the config wants [", absl::StrJoin(shape, ", "), "]"));
  }
  if (view.dtype != DType::kF32 && view.dtype != DType::kBF16 && view.dtype != DType::kF16) {
    return wrong(absl::StrCat("dtype ", Name(view.dtype), " is not implemented for weights"));
  }
  if (slice.of == 1) return part;
  if (slice.dim >= view.rank || shape[slice.dim] % slice.of != 0) {
    return wrong(absl::StrCat("dimension ", slice.dim, " does not split into ", slice.of));
  }
  // Outer blocks of `inner` bytes; the slice takes the same stretch of each.
  int64_t outer = 1;
  for (int32_t i = 0; i < slice.dim; ++i) outer *= shape[i];
  const size_t inner = view.NumBytes() / outer;
  const size_t stretch = inner / slice.of;
  const auto* first = static_cast<const char*>(view.data) + slice.rank * stretch;
  view.shape[slice.dim] /= slice.of;
  if (outer == 1) {
    view.data = first;
    return part;
  }
  part.copy.resize(stretch * outer);
  for (int64_t i = 0; i < outer; ++i) {
    std::memcpy(part.copy.data() + i * stretch, first + i * inner, stretch);
  }
  view.data = part.copy.data();
  return part;
}

absl::StatusOr<std::unique_ptr<kernels::PackedMatrix>> WeightReader::Matrix(
    std::span<const MatrixSource> sources) const {
  std::vector<Part> parts;
  std::vector<TensorView> views;
  bool all_bf16 = true;
  for (const MatrixSource& source : sources) {
    const std::array<int64_t, 2> shape = {source.rows, source.cols};
    ASSIGN_OR_RETURN(Part part, Read(source.tensor, shape, source.slice));
    all_bf16 &= part.view.dtype == DType::kBF16;
    parts.push_back(std::move(part));
  }
  for (const Part& part : parts) views.push_back(part.view);
  return backend_->PackMatrix(views, backend_->MatrixDType(compute_dtype_, all_bf16));
}

absl::StatusOr<kernels::DeviceBuffer> WeightReader::Vector(
    std::span<const VectorSource> sources) const {
  std::vector<float> values;
  for (const VectorSource& source : sources) {
    const std::array<int64_t, 1> shape = {source.size};
    ASSIGN_OR_RETURN(const Part part, Read(source.tensor, shape, source.slice));
    AppendAsFloat(part.view, values);
  }
  const size_t bytes = values.size() * sizeof(float);
  ASSIGN_OR_RETURN(kernels::DeviceBuffer buffer, backend_->Allocate(bytes));
  RETURN_IF_ERROR(backend_->CopyFromHost(buffer.data(), values.data(), bytes));
  return buffer;
}

absl::StatusOr<EmbeddingTable> WeightReader::Table(const MatrixSource& source) const {
  const std::array<int64_t, 2> shape = {source.rows, source.cols};
  ASSIGN_OR_RETURN(const Part part, Read(source.tensor, shape, source.slice));
  EmbeddingTable table;
  if (!backend_->Stores(part.view.dtype)) {
    std::vector<float> values;
    values.reserve(static_cast<size_t>(part.view.NumElements()));
    AppendAsFloat(part.view, values);
    ASSIGN_OR_RETURN(table.data, backend_->Allocate(values.size() * sizeof(float)));
    RETURN_IF_ERROR(
        backend_->CopyFromHost(table.data.data(), values.data(), values.size() * sizeof(float)));
    return table;
  }
  table.dtype = part.view.dtype;
  ASSIGN_OR_RETURN(table.data, backend_->Allocate(part.view.NumBytes()));
  RETURN_IF_ERROR(backend_->CopyFromHost(table.data.data(), part.view.data, part.view.NumBytes()));
  return table;
}

}  // namespace fathom::worker
