#pragma once

// What both CPU backends share: memory of the process, and the operations that only move bytes.

#include "kernels/backend.h"

namespace fathom::kernels::cpu {

class HostBackend : public Backend {
 public:
  absl::StatusOr<DeviceBuffer> Allocate(size_t bytes) override;
  absl::Status CopyFromHost(void* device, const void* host, size_t bytes) override;
  absl::Status CopyToHost(void* host, const void* device, size_t bytes) override;
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  void Free(void* data, size_t bytes) override;
  absl::Status DoGatherRows(const GatherRowsArgs& args) override;
  absl::Status DoCast(const CastArgs& args) override;
  absl::Status DoCopyBlocks(const CopyBlocksArgs& args) override;
  absl::Status DoScatter(const ScatterArgs& args) override;
};

// The id an embedding row is read from, forced into the vocabulary: a sampler's mistake must not
// become a read outside the table.
inline int32_t EmbeddingId(const EmbeddingArgs& args, int32_t token) {
  int32_t id = args.token_ids[token];
  if (id < 0) id = args.slot_tokens[args.token_slots[token]];
  return id < 0 ? 0 : (id >= args.vocab ? args.vocab - 1 : id);
}

// Element `index` of a tensor of F32, F16 or BF16.
float LoadElement(const TensorView& tensor, int64_t index);

}  // namespace fathom::kernels::cpu
