#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_kernels.h"

namespace fathom::kernels::cuda {
namespace {

bool Aligned(int64_t v) { return v % 16 == 0; }
bool Aligned(const void* p) { return Aligned(reinterpret_cast<intptr_t>(p)); }
// To what the decode kernel reads of floats at once.
bool AlignedFloats(const float* p) { return reinterpret_cast<intptr_t>(p) % 8 == 0; }

bool FitsTensorCores(const PagedAttentionArgs& args) {
  const KvCacheView& kv = args.kv;
  return (args.dtype == DType::kBF16 || args.dtype == DType::kF16) &&
         IsTensorHeadDim(kv.head_dim) && kv.block_tokens % kBlockTokensStep == 0 &&
         args.scale > 0 && Aligned(args.out) && Aligned(args.qkv) && Aligned(kv.arena) &&
         Aligned(kv.block_bytes) && Aligned(kv.layer_offset) && Aligned(kv.value_offset);
}

int32_t NumWorkers(int32_t head_dim, int32_t num_multiprocessors) {
  return num_multiprocessors * DecodeBlocksPerMultiprocessor(head_dim);
}

// At the front of the workspace; what decode uses begins behind it.
constexpr size_t kQueueBytes = 256;
static_assert(sizeof(TileQueue) <= kQueueBytes);

DecodeWorkspace Divide(void* workspace, int32_t num_workers, int32_t head_dim) {
  DecodeWorkspace parts;
  parts.outputs = reinterpret_cast<float*>(static_cast<char*>(workspace) + kQueueBytes);
  parts.statistics = parts.outputs + int64_t{num_workers} * kMaxHeadsPerPass * head_dim;
  return parts;
}

}  // namespace

bool FusesRotary(const PagedAttentionArgs& args) {
  const FusedRotaryArgs& rotary = args.rotary;
  return args.max_query_len == 1 && FitsTensorCores(args) && AlignedFloats(rotary.cos_sin) &&
         AlignedFloats(rotary.q_norm_weight) && AlignedFloats(rotary.k_norm_weight);
}

size_t AttentionWorkspaceBytes(int32_t num_multiprocessors) {
  size_t bytes = 0;  // of decode
  for (const int32_t head_dim : kTensorHeadDims) {
    const size_t rows =
        static_cast<size_t>(NumWorkers(head_dim, num_multiprocessors)) * kMaxHeadsPerPass;
    bytes = std::max(bytes, rows * (head_dim + 2) * sizeof(float));
  }
  return kQueueBytes + bytes;
}

cudaError_t PrepareAttention() {
  cudaError_t error = PrepareDecodeAttention();
  if (error == cudaSuccess) error = PreparePrefillAttention();
  if (error == cudaSuccess) error = PrepareHopperPrefillAttention();
  return error;
}

cudaError_t LaunchPagedAttention(const PagedAttentionArgs& args, const AttentionHints& hints,
                                 void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (args.num_tokens == 0 || args.num_sequences == 0) return cudaSuccess;
  const int32_t head_dim = args.kv.head_dim;
  if (head_dim > kMaxAttentionHeadDim) return cudaErrorInvalidValue;
  if (args.rotary.cos_sin != nullptr && (hints.batch_invariant || !FusesRotary(args))) {
    return cudaErrorInvalidValue;
  }
  if (!FitsTensorCores(args)) return LaunchPlainAttention(args, stream);
  if (workspace_bytes < AttentionWorkspaceBytes(hints.num_multiprocessors)) {
    return cudaErrorInvalidValue;
  }
  auto* const queue = static_cast<TileQueue*>(workspace);
  if (hints.batch_invariant) {
    // Steps of keys begin at the same positions whatever a tile holds, and rows do not meet.
    return FitsHopperPrefill(args.kv)
               ? LaunchHopperPrefillAttention(args, args.num_tokens, args.num_sequences,
                                              /*queries_min=*/1, hints.num_multiprocessors, queue,
                                              stream)
               : LaunchPlainAttention(args, stream);
  }
  const bool all_decode = hints.max_query_len <= 1 || args.rotary.cos_sin != nullptr;
  if (all_decode || hints.num_decodes != 0) {
    const int32_t workers = NumWorkers(head_dim, hints.num_multiprocessors);
    const DecodeWorkspace parts = Divide(workspace, workers, head_dim);
    const cudaError_t error = LaunchDecodeAttention(args, parts, workers, hints.settled, stream);
    if (error != cudaSuccess) return error;
  }
  const int32_t decodes = hints.num_decodes < 0 ? 0 : hints.num_decodes;
  if (all_decode || decodes >= args.num_sequences) return cudaSuccess;
  const int32_t num_tokens = args.num_tokens - decodes;
  const int32_t num_sequences = args.num_sequences - decodes;
  return FitsHopperPrefill(args.kv)
             ? LaunchHopperPrefillAttention(args, num_tokens, num_sequences, /*queries_min=*/2,
                                            hints.num_multiprocessors, queue, stream)
             : LaunchPrefillAttention(args, num_tokens, num_sequences, stream);
}

}  // namespace fathom::kernels::cuda
