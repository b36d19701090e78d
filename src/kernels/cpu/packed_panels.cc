#include "kernels/cpu/packed_panels.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/status_macros.h"
#include "kernels/bfloat16.h"
#include "kernels/cpu/host_backend.h"
#include "kernels/cpu/kernel_table.h"

namespace fathom::kernels::cpu {
namespace {

int32_t PaddedCols(int32_t cols, DType dtype) {
  const int32_t unit = dtype == DType::kBF16 ? 32 : 16;
  return (cols + unit - 1) / unit * unit;
}

int64_t PanelBytes(int32_t cols, DType dtype) {
  return int64_t{PaddedCols(cols, dtype)} * kPanelCols * static_cast<int64_t>(SizeOf(dtype));
}

// Row `row` of the stacked parts.
struct SourceRow {
  const TensorView* part;
  int64_t first;  // element
};

SourceRow FindRow(std::span<const TensorView> parts, int64_t row) {
  size_t i = 0;
  while (row >= parts[i].shape[0]) row -= parts[i++].shape[0];
  return {&parts[i], row * parts[i].shape[1]};
}

// The common case, without a decision per element.
void PackBf16Row(const TensorView& part, int64_t first, int32_t cols, int32_t lane,
                 BFloat16* panel) {
  const char* in = static_cast<const char*>(part.data) + first * sizeof(BFloat16);
  for (int32_t k = 0; k < cols; ++k) {
    std::memcpy(&panel[(k / 2 * kPanelCols + lane) * 2 + k % 2], in + k * sizeof(BFloat16),
                sizeof(BFloat16));
  }
}

void PackRow(const SourceRow& row, int32_t cols, int32_t lane, DType dtype, void* panel) {
  if (dtype == DType::kBF16) {
    auto* out = static_cast<BFloat16*>(panel);
    if (row.part->dtype == DType::kBF16) return PackBf16Row(*row.part, row.first, cols, lane, out);
    for (int32_t k = 0; k < cols; ++k) {
      out[(k / 2 * kPanelCols + lane) * 2 + k % 2] =
          ToBFloat16(LoadElement(*row.part, row.first + k));
    }
    return;
  }
  auto* out = static_cast<float*>(panel);
  for (int32_t k = 0; k < cols; ++k) {
    out[int64_t{k} * kPanelCols + lane] = LoadElement(*row.part, row.first + k);
  }
}

}  // namespace

PackedPanels::PackedPanels(int32_t rows, int32_t cols, DType dtype, DeviceBuffer data)
    : PackedMatrix(rows, cols, dtype),
      padded_cols_(PaddedCols(cols, dtype)),
      panel_bytes_(PanelBytes(cols, dtype)),
      data_(std::move(data)) {}

int32_t PackedPanels::num_panels() const { return (rows() + kPanelCols - 1) / kPanelCols; }

absl::StatusOr<std::unique_ptr<PackedPanels>> PackPanels(std::span<const TensorView> parts,
                                                         int32_t rows, int32_t cols, DType dtype,
                                                         Backend& backend, ThreadPool& pool) {
  const int32_t num_panels = (rows + kPanelCols - 1) / kPanelCols;
  const int64_t panel_bytes = PanelBytes(cols, dtype);
  ASSIGN_OR_RETURN(DeviceBuffer data, backend.Allocate(num_panels * panel_bytes));
  pool.ParallelFor(num_panels, [&](int64_t panel, int32_t) {
    char* out = data.as<char>() + panel * panel_bytes;
    const int64_t first = panel * kPanelCols;
    const auto lanes = static_cast<int32_t>(std::min<int64_t>(kPanelCols, rows - first));
    for (int32_t lane = 0; lane < lanes; ++lane) {
      PackRow(FindRow(parts, first + lane), cols, lane, dtype, out);
    }
  });
  return std::make_unique<PackedPanels>(rows, cols, dtype, std::move(data));
}

}  // namespace fathom::kernels::cpu
