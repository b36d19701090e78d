#include <cooperative_groups.h>

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_choose.cuh"
#include "kernels/cuda/sampling_launch.cuh"

namespace fathom::kernels::cuda {
namespace {

// Adds the token to the row's history; as on the CPU, one that finds no room is not counted.
__device__ void CountToken(const SamplingRow& row, int32_t token) {
  const int32_t num_counts = *row.num_counts;
  bool found = false;
  for (int32_t i = threadIdx.x; i < num_counts; i += kSamplingThreads) {
    if (row.counts[i].token == token) {
      ++row.counts[i].in_output;
      found = true;
    }
  }
  if (__syncthreads_or(found) != 0) return;
  if (threadIdx.x == 0 && num_counts < row.counts_capacity) {
    row.counts[num_counts] = {token, 0, 1};
    *row.num_counts = num_counts + 1;
  }
}

// The winner over the whole row, of the blocks' own.
__device__ NoisyToken ClusterWinner(const RowShared& shared, int32_t blocks) {
  NoisyToken winner;
  for (int32_t i = 0; i < blocks; ++i) {
    const NoisyToken& other = shared.cluster_tokens[i];
    if (Beats(other, winner, shared.noise.exact_inverse)) winner = other;
  }
  return winner;
}

__device__ void WriteToken(const SamplingArgs& args, int32_t index, uint8_t status, int32_t token) {
  if (threadIdx.x != 0) return;
  args.status[index] = status;
  args.tokens[index] = token;
  args.slot_tokens[args.rows[index].slot] = token;
}

__device__ void StampEnd(const SamplingArgs& args, const uint64_t* began, int32_t index) {
  if (threadIdx.x != 0) return;
  if (index == 0) args.clock[0] = *began;
  args.clock[1 + index] = DeviceClockNs();
}

// What follows the pass over the row, by the cluster's first block.
template <typename T>
__device__ void FinishRow(const SamplingArgs& args, int32_t index, uint32_t filters,
                          const RowTables& tables, int32_t blocks, RowShared* shared) {
  if (AnyBad(*shared, blocks)) {
    WriteToken(args, index, kRowNotFinite, 0);
    return;
  }
  const SamplingRow& row = args.rows[index];
  NoisyToken winner;
  if ((filters & (kGreedy | kTopK)) == 0) winner = ClusterWinner(*shared, blocks);
  const int32_t token = RowChooser<T>(row, filters, shared).Choose(winner);
  if (token < 0) {
    WriteToken(args, index, kRowNoCandidate, 0);
    return;
  }
  WriteToken(args, index, kRowOk, token);
  if (row.counts != nullptr) CountToken(row, token);
  if (row.num_logprobs < 0) return;
  const RowView raw = RawView<T>(args.logits, row.logit_row, args.vocab);
  const double log_sum = LogSumOf(tables.raw(), NumGroups(args.vocab), shared);
  if (threadIdx.x == 0) {
    args.logprobs[index] =
        static_cast<float>(static_cast<double>(LogitAt<T>(raw, token)) - log_sum);
  }
  const size_t at = static_cast<size_t>(index) * args.max_logprobs;
  WriteTopLogprobs<T>(raw, tables.raw().keys, log_sum, row.num_logprobs, args.max_logprobs, shared,
                      args.top_tokens + at, args.top_logprobs + at);
}

template <typename T>
__global__ __launch_bounds__(kSamplingThreads, 2) void SampleRows(SamplingArgs args,
                                                                  const uint64_t* began,
                                                                  float* workspace) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto* shared = reinterpret_cast<RowShared*>(shared_bytes);
  const RowTables tables(shared, args.vocab);
  const auto cluster = cooperative_groups::this_cluster();
  const auto blocks = static_cast<int32_t>(cluster.num_blocks());
  const auto rank = static_cast<int32_t>(cluster.block_rank());
  const auto index = static_cast<int32_t>(blockIdx.x) / blocks;
  const SamplingRow& row = args.rows[index];

  const int32_t groups = NumGroups(args.vocab);
  const int32_t share = (groups + blocks - 1) / blocks;
  const int32_t begin = min(rank * share, groups);
  const int32_t end = min(begin + share, groups);
  RowView view = RawView<T>(args.logits, row.logit_row, args.vocab);
  if (row.num_bias > 0 || row.num_banned > 0 || row.counts != nullptr) {
    float* edits = workspace + static_cast<size_t>(index) * args.vocab;
    BuildEdits<T>(row, view, begin * kGroup, end * kGroup, tables.edited(), edits);
    view.edited = tables.edited();
    view.edits = edits;
  }
  view.mask = row.mask;
  const uint32_t filters = FiltersOf(row, args.vocab);

  if (threadIdx.x == 0) {
    SetNoise(row, &shared->noise);
    shared->view = view;
  }
  // All blocks must run before one writes into another's shared memory.
  cluster.sync();
  RowShared* first = cluster.map_shared_rank(shared, 0);
  StreamRow<T>(view, FindsOf(row, filters), begin, end, rank, shared, first,
               RowTables(first, args.vocab));
  cluster.sync();
  if (rank != 0) return;
  FinishRow<T>(args, index, filters, tables, blocks, shared);
  if (args.clock != nullptr) StampEnd(args, began, index);
}

}  // namespace

size_t SamplingWorkspaceBytes(int32_t max_rows, int32_t vocab) {
  return static_cast<size_t>(max_rows) * vocab * sizeof(float);
}

cudaError_t LaunchSampleTokens(const SamplingArgs& args, const uint64_t* began, void* workspace,
                               size_t workspace_bytes, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  if (workspace_bytes < SamplingWorkspaceBytes(args.num_rows, args.vocab)) {
    return cudaErrorInvalidValue;
  }
  auto* edits = static_cast<float*>(workspace);
  switch (args.logits_dtype) {
    case DType::kF32:
      return LaunchRowClusters(SampleRows<float>, args.num_rows, args.vocab, stream, args, began,
                               edits);
    case DType::kBF16:
      return LaunchRowClusters(SampleRows<BFloat16>, args.num_rows, args.vocab, stream, args, began,
                               edits);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fathom::kernels::cuda
