#include "kernels/cpu/host_backend.h"

#include <sys/mman.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/unmap.h"
#include "kernels/bfloat16.h"

namespace fathom::kernels::cpu {

absl::StatusOr<DeviceBuffer> HostBackend::Allocate(size_t bytes) {
  if (bytes == 0) return DeviceBuffer();
  // Pages come zeroed and only when touched, so that a large arena does not delay the start.
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  madvise(data, bytes, MADV_HUGEPAGE);  // a hint: refusal costs nothing
  return DeviceBuffer(this, data, bytes);
}

void HostBackend::Free(void* data, size_t bytes) { UnmapInSlices(data, bytes); }

absl::Status HostBackend::CopyFromHost(void* device, const void* host, size_t bytes) {
  // Nothing may come from nowhere, which memcpy does not allow.
  if (bytes > 0) std::memcpy(device, host, bytes);
  return absl::OkStatus();
}

absl::Status HostBackend::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
  return absl::OkStatus();
}

absl::Status HostBackend::DoGatherRows(const GatherRowsArgs& args) {
  const size_t row_bytes = static_cast<size_t>(args.dim) * SizeOf(args.dtype);
  auto* out = static_cast<char*>(args.out);
  const auto* x = static_cast<const char*>(args.x);
  for (int32_t row = 0; row < args.rows; ++row) {
    std::memcpy(out + row * row_bytes, x + args.indices[row] * row_bytes, row_bytes);
  }
  return absl::OkStatus();
}

absl::Status HostBackend::DoCast(const CastArgs& args) {
  if (args.dtype == DType::kF32) {
    std::memcpy(args.out, args.x, static_cast<size_t>(args.count) * sizeof(float));
    return absl::OkStatus();
  }
  auto* out = static_cast<BFloat16*>(args.out);
  for (int64_t i = 0; i < args.count; ++i) out[i] = ToBFloat16(args.x[i]);
  return absl::OkStatus();
}

absl::Status HostBackend::DoCopyBlocks(const CopyBlocksArgs& args) {
  auto* arena = static_cast<char*>(args.arena);
  for (int32_t i = 0; i < args.count; ++i) {
    if (args.sources[i] == args.destinations[i]) continue;
    std::memcpy(arena + args.destinations[i] * args.block_bytes,
                arena + args.sources[i] * args.block_bytes, static_cast<size_t>(args.block_bytes));
  }
  return absl::OkStatus();
}

absl::Status HostBackend::DoScatter(const ScatterArgs& args) {
  for (int32_t i = 0; i < args.count; ++i) args.out[args.indices[i]] = args.values[i];
  return absl::OkStatus();
}

float LoadElement(const TensorView& tensor, int64_t index) {
  const auto* bytes = static_cast<const char*>(tensor.data) + index * SizeOf(tensor.dtype);
  if (tensor.dtype == DType::kF32) {
    float v;
    std::memcpy(&v, bytes, sizeof(v));
    return v;
  }
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return tensor.dtype == DType::kBF16 ? ToFloat(BFloat16{half}) : HalfToFloat(half);
}

}  // namespace fathom::kernels::cpu
