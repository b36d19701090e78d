// What only moves bytes, or changes their type.

#include <algorithm>
#include <cstring>

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocksMax = 4096;
constexpr int kInlineThreads = 128;

template <typename T>
__global__ void GatherRowsKernel(GatherRowsArgs args) {
  LetSuccessorStart();
  WaitForPredecessor();
  const T* x = static_cast<const T*>(args.x) + int64_t{args.indices[blockIdx.x]} * args.dim;
  T* out = static_cast<T*>(args.out) + int64_t{blockIdx.x} * args.dim;
  for (int i = static_cast<int>(threadIdx.x); i < args.dim; i += kThreads) out[i] = x[i];
}

template <typename To, typename From>
__global__ void ConvertKernel(To* out, const From* x, int64_t count) {
  LetSuccessorStart();
  WaitForPredecessor();
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    out[i] = FromFloat<To>(ToFloat(x[i]));
  }
}

// In the order of the list: a later copy may read what an earlier one wrote, so one block of
// threads takes the same stretch of bytes of every copy.
__global__ void CopyBlocksKernel(CopyBlocksArgs args) {
  LetSuccessorStart();
  WaitForPredecessor();
  auto* arena = static_cast<char*>(args.arena);
  const int64_t words = args.block_bytes / 4;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int c = 0; c < args.count; ++c) {
    const auto* from =
        reinterpret_cast<const uint32_t*>(arena + args.sources[c] * args.block_bytes);
    auto* to = reinterpret_cast<uint32_t*>(arena + args.destinations[c] * args.block_bytes);
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += stride) {
      to[i] = from[i];
    }
    for (int64_t i = words * 4 + threadIdx.x; i < args.block_bytes && blockIdx.x == 0;
         i += kThreads) {
      reinterpret_cast<char*>(to)[i] = reinterpret_cast<const char*>(from)[i];
    }
  }
}

__global__ void ScatterKernel(ScatterArgs args) {
  WaitForPredecessor();
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < args.count) args.out[args.indices[i]] = args.values[i];
}

// The bytes travel with the launch. A multiprocessor reads its constants a word at a time, so many
// blocks take few words each.
template <size_t kBytes>
struct InlineBytes {
  uint32_t words[kBytes / 4];
};

template <size_t kBytes>
__global__ void InlineCopyKernel(const __grid_constant__ InlineBytes<kBytes> from, char* out,
                                 uint32_t bytes) {
  LetSuccessorStart();
  WaitForPredecessor();
  const uint32_t at = (blockIdx.x * kInlineThreads + threadIdx.x) * 4;
  if (at >= bytes) return;
  const uint32_t word = from.words[at / 4];
  if (at + 4 <= bytes && reinterpret_cast<uintptr_t>(out) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(out + at) = word;
    return;
  }
  for (uint32_t i = 0; i < min(4U, bytes - at); ++i) out[at + i] = static_cast<char>(word >> 8 * i);
}

template <size_t kBytes>
cudaError_t InlineCopy(void* out, const void* host, size_t bytes, cudaStream_t stream) {
  InlineBytes<kBytes> from;
  std::memcpy(&from, host, bytes);
  return LaunchChained(InlineCopyKernel<kBytes>, CeilDiv(bytes, 4 * kInlineThreads), kInlineThreads,
                       0, stream, from, static_cast<char*>(out), static_cast<uint32_t>(bytes));
}

unsigned BlocksFor(int64_t count) {
  return static_cast<unsigned>(std::min(int64_t{CeilDiv(count, kThreads)}, kBlocksMax));
}

}  // namespace

cudaError_t LaunchGatherRows(const GatherRowsArgs& args, cudaStream_t stream) {
  return WithType(args.dtype, [&](auto t) {
    return LaunchChained(GatherRowsKernel<decltype(t)>, static_cast<unsigned>(args.rows), kThreads,
                         0, stream, args);
  });
}

cudaError_t LaunchInlineCopy(void* out, const void* host, size_t bytes, cudaStream_t stream) {
  if (bytes <= 256) return InlineCopy<256>(out, host, bytes, stream);
  if (bytes <= 4032) return InlineCopy<4032>(out, host, bytes, stream);
  if (bytes > kInlineCopyMax) return cudaErrorInvalidValue;
  return InlineCopy<kInlineCopyMax>(out, host, bytes, stream);
}

cudaError_t LaunchConvert(void* out, DType out_dtype, const void* x, DType x_dtype, int64_t count,
                          cudaStream_t stream) {
  return WithType(out_dtype, [&](auto to) {
    return WithType(x_dtype, [&](auto from) {
      return LaunchChained(ConvertKernel<decltype(to), decltype(from)>, BlocksFor(count), kThreads,
                           0, stream, static_cast<decltype(to)*>(out),
                           static_cast<const decltype(from)*>(x), count);
    });
  });
}

cudaError_t LaunchCopyBlocks(const CopyBlocksArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  return LaunchChained(CopyBlocksKernel, std::max(1U, BlocksFor(args.block_bytes / 4)), kThreads, 0,
                       stream, args);
}

cudaError_t LaunchScatter(const ScatterArgs& args, cudaStream_t stream) {
  return LaunchChained(ScatterKernel, CeilDiv(args.count, kThreads), kThreads, 0, stream, args);
}

}  // namespace fathom::kernels::cuda
