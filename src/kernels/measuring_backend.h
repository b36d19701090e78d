#pragma once

// A backend that only counts what is asked of it: the dry run of a loading, which tells its size
// before a byte of the weights is read. It stores what the backend it stands for stores; a matrix
// counts as [rows, cols] of its type, without whatever padding a layout adds. Its buffers hold no
// memory, and operations fail.

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/backend.h"

namespace fathom::kernels {

class MeasuringBackend final : public Backend {
 public:
  // `like` outlives it.
  explicit MeasuringBackend(const Backend* like) : like_(like) {}

  // Of all buffers and matrices asked for so far.
  int64_t bytes() const { return bytes_; }

  const char* name() const override { return like_->name(); }
  bool batch_invariant() const override { return like_->batch_invariant(); }
  bool Stores(DType dtype) const override { return like_->Stores(dtype); }
  DType MatrixDType(DType compute, bool all_bf16) const override {
    return like_->MatrixDType(compute, all_bf16);
  }
  bool FusesLinear(int32_t rows, DType dtype, const PackedMatrix& weight) const override {
    return like_->FusesLinear(rows, dtype, weight);
  }
  absl::StatusOr<DeviceBuffer> Allocate(size_t bytes) override {
    bytes_ += static_cast<int64_t>(bytes);
    return DeviceBuffer(this, nullptr, bytes);
  }
  absl::Status CopyFromHost(void*, const void*, size_t) override { return absl::OkStatus(); }
  absl::Status CopyToHost(void*, const void*, size_t) override { return Refused(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  static absl::Status Refused() {
    return absl::FailedPreconditionError("a backend that measures computes nothing");
  }
  void Free(void*, size_t) override {}
  absl::StatusOr<std::unique_ptr<PackedMatrix>> DoPackMatrix(std::span<const TensorView>,
                                                             int32_t rows, int32_t cols,
                                                             DType dtype) override {
    bytes_ += int64_t{rows} * cols * static_cast<int64_t>(SizeOf(dtype));
    return std::make_unique<PackedMatrix>(rows, cols, dtype);
  }
  absl::Status DoEmbedding(const EmbeddingArgs&) override { return Refused(); }
  absl::Status DoRmsNorm(const RmsNormArgs&) override { return Refused(); }
  absl::Status DoRotaryTable(const RotaryTableArgs&) override { return Refused(); }
  absl::Status DoRotaryKvWrite(const RotaryKvWriteArgs&) override { return Refused(); }
  absl::Status DoPagedAttention(const PagedAttentionArgs&) override { return Refused(); }
  absl::Status DoSiluMul(const SiluMulArgs&) override { return Refused(); }
  absl::Status DoGatherRows(const GatherRowsArgs&) override { return Refused(); }
  absl::Status DoCast(const CastArgs&) override { return Refused(); }
  absl::Status DoCopyBlocks(const CopyBlocksArgs&) override { return Refused(); }
  absl::Status DoScatter(const ScatterArgs&) override { return Refused(); }
  absl::Status DoLinear(const LinearArgs&, const PackedMatrix&) override { return Refused(); }

  const Backend* const like_;
  int64_t bytes_ = 0;
};

}  // namespace fathom::kernels
