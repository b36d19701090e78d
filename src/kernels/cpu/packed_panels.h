#pragma once

// The fast backend's layout of a weight matrix [N, K]: panels of 64 columns of the product,
// contiguous. F32: [N / 64][K][64]. BF16: [N / 64][K / 2][64][2], so that one 32-bit word holds
// two values of k, which widen to FP32 by one shift and one mask. N is padded with zeros to whole
// panels and K to 16 (F32) or 32 (BF16). F32 is also oneDNN's blocked layout BA16a64b, so that it
// multiplies the same bytes, and BF16 is what a matrix tile of AMX takes.

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/thread_pool.h"

namespace fathom::kernels::cpu {

class PackedPanels final : public PackedMatrix {
 public:
  PackedPanels(int32_t rows, int32_t cols, DType dtype, DeviceBuffer data);

  int32_t num_panels() const;
  int32_t padded_cols() const { return padded_cols_; }
  int64_t panel_bytes() const { return panel_bytes_; }
  const void* panel(int32_t index) const {
    return data_.as<const char>() + static_cast<int64_t>(index) * panel_bytes_;
  }

 private:
  const int32_t padded_cols_;
  const int64_t panel_bytes_;
  const DeviceBuffer data_;
};

absl::StatusOr<std::unique_ptr<PackedPanels>> PackPanels(std::span<const TensorView> parts,
                                                         int32_t rows, int32_t cols, DType dtype,
                                                         Backend& backend, ThreadPool& pool);

}  // namespace fathom::kernels::cpu
