#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// A sampler's mistake must not become a read outside the table.
__device__ int EmbeddingId(const EmbeddingArgs& args, int token) {
  int id = args.token_ids[token];
  if (id < 0) id = args.slot_tokens[args.token_slots[token]];
  return min(max(id, 0), args.vocab - 1);
}

template <typename T, typename Table>
__global__ void EmbeddingKernel(EmbeddingArgs args, uint64_t* began) {
  LetSuccessorStart();
  WaitForPredecessor();
  if (began != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *began = DeviceClockNs();
  const int token = static_cast<int>(blockIdx.x);
  const auto* row =
      static_cast<const Table*>(args.table) + int64_t{EmbeddingId(args, token)} * args.hidden;
  T* out = static_cast<T*>(args.out) + int64_t{token} * args.hidden;
  for (int i = static_cast<int>(threadIdx.x); i < args.hidden; i += kThreads) {
    out[i] = FromFloat<T>(ToFloat(row[i]));
  }
}

}  // namespace

cudaError_t LaunchEmbedding(const EmbeddingArgs& args, uint64_t* began, cudaStream_t stream) {
  return WithType(args.dtype, [&](auto out) {
    return WithType(args.table_dtype, [&](auto table) {
      return LaunchChained(EmbeddingKernel<decltype(out), decltype(table)>,
                           static_cast<unsigned>(args.num_tokens), kThreads, 0, stream, args,
                           began);
    });
  });
}

}  // namespace fathom::kernels::cuda
