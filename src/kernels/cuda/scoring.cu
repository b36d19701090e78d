// Log-probabilities of given tokens: the sampler's pass over the row without the sampling.

#include <cooperative_groups.h>

#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_launch.cuh"
#include "kernels/cuda/sampling_select.cuh"
#include "kernels/cuda/sampling_stream.cuh"

namespace fathom::kernels::cuda {
namespace {

template <typename T>
__global__ __launch_bounds__(kSamplingThreads, 2) void ScoreRows(ScoringArgs args) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto* shared = reinterpret_cast<RowShared*>(shared_bytes);
  const RowTables tables(shared, args.vocab);
  const auto cluster = cooperative_groups::this_cluster();
  const auto blocks = static_cast<int32_t>(cluster.num_blocks());
  const auto rank = static_cast<int32_t>(cluster.block_rank());
  const auto index = static_cast<int32_t>(blockIdx.x) / blocks;
  const ScoringRow row = args.rows[index];

  const int32_t groups = NumGroups(args.vocab);
  const int32_t share = (groups + blocks - 1) / blocks;
  const int32_t begin = min(rank * share, groups);
  const int32_t end = min(begin + share, groups);
  const RowView raw = RawView<T>(args.logits, row.logit_row, args.vocab);
  cluster.sync();
  RowShared* first = cluster.map_shared_rank(shared, 0);
  StreamRow<T>(raw, kFindRaw, begin, end, rank, shared, first, RowTables(first, args.vocab));
  cluster.sync();
  if (rank != 0) return;

  const bool bad = AnyBad(*shared, blocks);
  if (threadIdx.x == 0) args.status[index] = bad ? kRowNotFinite : kRowOk;
  if (bad) return;
  const double log_sum = LogSumOf(tables.raw(), groups, shared);
  if (threadIdx.x == 0) {
    args.logprobs[index] =
        static_cast<float>(static_cast<double>(LogitAt<T>(raw, row.target)) - log_sum);
  }
  const size_t at = static_cast<size_t>(index) * args.max_logprobs;
  WriteTopLogprobs<T>(raw, tables.raw().keys, log_sum, row.num_logprobs, args.max_logprobs, shared,
                      args.top_tokens + at, args.top_logprobs + at);
}

}  // namespace

cudaError_t LaunchScoreTokens(const ScoringArgs& args, void* /*workspace*/,
                              size_t /*workspace_bytes*/, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  switch (args.logits_dtype) {
    case DType::kF32:
      return LaunchRowClusters(ScoreRows<float>, args.num_rows, args.vocab, stream, args);
    case DType::kBF16:
      return LaunchRowClusters(ScoreRows<BFloat16>, args.num_rows, args.vocab, stream, args);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fathom::kernels::cuda
