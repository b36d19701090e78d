#pragma once

// The one interface of a device: memory, weights and operations. Every public operation checks its
// arguments (check_args.h) and then hands them to the implementation, so that all devices refuse
// the same calls.
//
// Operations are ordered: each sees the memory as the ones before left it. They may run behind the
// caller's back; Synchronize waits for all of them. CPU backends have finished when they return.
// Thread safety: none; one thread owns a backend.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device_memory.h"
#include "kernels/device_queue.h"
#include "kernels/op_args.h"
#include "kernels/tensor_view.h"

namespace fathom::kernels {

// A weight matrix [rows, cols] in whatever layout its backend multiplies best. The backend outlives
// it.
class PackedMatrix {
 public:
  PackedMatrix(int32_t rows, int32_t cols, DType dtype) : rows_(rows), cols_(cols), dtype_(dtype) {}
  virtual ~PackedMatrix() = default;
  int32_t rows() const { return rows_; }
  int32_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }

 private:
  const int32_t rows_;
  const int32_t cols_;
  const DType dtype_;
};

// A device with memory of its own, as its driver describes it.
struct DeviceFacts {
  std::string name;        // "NVIDIA H100 80GB HBM3"
  std::string pci_bus_id;  // "0000:65:00.0"
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;       // now
  int64_t workspace_bytes = 0;  // taken by the backend itself, for operations to work in
};

class Backend : protected MemoryAllocator {
 public:
  ~Backend() override = default;

  virtual const char* name() const = 0;
  // Results do not depend on how tokens are batched or chunked.
  virtual bool batch_invariant() const = 0;

  // Before the first call on a thread other than the one that made it.
  virtual absl::Status BindThread() { return absl::OkStatus(); }
  // What a device that runs behind its caller's back offers besides; null where operations have
  // ended when they return.
  virtual DeviceQueue* queue() { return nullptr; }
  // Whether activations can be stored as `dtype`.
  virtual bool Stores(DType dtype) const { return dtype == DType::kF32 || dtype == DType::kBF16; }
  // The type a matrix is packed as for activations of type `compute`: a checkpoint's BF16 may stay
  // what it is, since that loses nothing.
  virtual DType MatrixDType(DType compute, bool all_bf16) const {
    return all_bf16 ? DType::kBF16 : compute;
  }
  // Whether PagedAttention takes `args` with their rotary part, in place of a RotaryKvWrite before.
  virtual bool FusesRotary(const PagedAttentionArgs& args) const {
    (void)args;
    return false;
  }
  // How many rows a step of `rows` sequences that all decode computes: more than it needs, so that
  // few sizes are ever replayed.
  virtual int32_t PaddedRows(int32_t rows) const { return rows; }
  // Runs `record`, which only calls operations. A device that can keeps what they launched and
  // repeats that for the same key, without running `record`: whatever its operations depend on
  // besides device memory must be told by the key.
  virtual absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> record) {
    (void)key;
    return record();
  }
  // Keeps what `record` launches for a later Replay, without running it. False: nothing is kept
  // here.
  virtual absl::StatusOr<bool> Keep(uint64_t key, absl::FunctionRef<absl::Status()> record) {
    (void)key, (void)record;
    return false;
  }

  // Whether Linear takes a LinearFusion for so many rows, activations of this type and this matrix,
  // of which only shape and type matter.
  virtual bool FusesLinear(int32_t rows, DType dtype, const PackedMatrix& weight) const {
    (void)rows, (void)dtype, (void)weight;
    return false;
  }
  // In how many parts a product with a residual leaves each row's sum of squares; at most
  // ceil(weight.rows() / 16).
  virtual int32_t SquareParts(const PackedMatrix& weight) const {
    (void)weight;
    return 0;
  }

  // None where the memory is the process's.
  virtual absl::StatusOr<std::optional<DeviceFacts>> Facts() { return std::nullopt; }
  // Zeroed, aligned to 64 bytes. ResourceExhausted when there is not enough.
  virtual absl::StatusOr<DeviceBuffer> Allocate(size_t bytes) = 0;
  virtual absl::Status CopyFromHost(void* device, const void* host, size_t bytes) = 0;
  virtual absl::Status CopyToHost(void* host, const void* device, size_t bytes) = 0;
  virtual absl::Status Synchronize() = 0;

  // Stacks `parts` ([rows_i, cols] each, host memory, F32, F16 or BF16) into one matrix and packs
  // it as `dtype`, which the backend stores. The parts are not needed afterwards.
  absl::StatusOr<std::unique_ptr<PackedMatrix>> PackMatrix(std::span<const TensorView> parts,
                                                           DType dtype);

  absl::Status Embedding(const EmbeddingArgs& args);
  absl::Status RmsNorm(const RmsNormArgs& args);
  absl::Status RotaryTable(const RotaryTableArgs& args);
  absl::Status RotaryKvWrite(const RotaryKvWriteArgs& args);
  absl::Status PagedAttention(const PagedAttentionArgs& args);
  absl::Status SiluMul(const SiluMulArgs& args);
  absl::Status GatherRows(const GatherRowsArgs& args);
  absl::Status Cast(const CastArgs& args);
  absl::Status CopyBlocks(const CopyBlocksArgs& args);
  absl::Status Scatter(const ScatterArgs& args);
  // `weight` was packed by this backend.
  absl::Status Linear(const LinearArgs& args, const PackedMatrix& weight);

 private:
  absl::Status CheckStored(DType dtype) const;
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> DoPackMatrix(
      std::span<const TensorView> parts, int32_t rows, int32_t cols, DType dtype) = 0;
  virtual absl::Status DoEmbedding(const EmbeddingArgs& args) = 0;
  virtual absl::Status DoRmsNorm(const RmsNormArgs& args) = 0;
  virtual absl::Status DoRotaryTable(const RotaryTableArgs& args) = 0;
  virtual absl::Status DoRotaryKvWrite(const RotaryKvWriteArgs& args) = 0;
  virtual absl::Status DoPagedAttention(const PagedAttentionArgs& args) = 0;
  virtual absl::Status DoSiluMul(const SiluMulArgs& args) = 0;
  virtual absl::Status DoGatherRows(const GatherRowsArgs& args) = 0;
  virtual absl::Status DoCast(const CastArgs& args) = 0;
  virtual absl::Status DoCopyBlocks(const CopyBlocksArgs& args) = 0;
  virtual absl::Status DoScatter(const ScatterArgs& args) = 0;
  virtual absl::Status DoLinear(const LinearArgs& args, const PackedMatrix& weight) = 0;
};

}  // namespace fathom::kernels
