#pragma once

// What a warp of the decode kernel does by itself: bring chunks of keys and values into its ring in
// shared memory, and add them to what it has of a row. It meets other warps only where a row ends.
//
// Products are transposed, S^T = K Q^T and O^T = V^T P^T: chunks fill the 16 rows of a tensor core
// tile and the heads only need to fill 8 columns.

#include "kernels/cuda/attention_device.cuh"

namespace fathom::kernels::cuda::decode {

inline constexpr int32_t kWarps = 4;
inline constexpr int32_t kThreads = kWarps * 32;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFU;
static_assert(kMinChunksPerWorker % kWarps == 0);

template <int kDim>
struct Shape {
  // 16 bytes more than the elements: eight rows then begin on different banks.
  static constexpr int32_t kRowBytes = kDim * 2 + 16;
  static constexpr int32_t kTileBytes = kChunkTokens * kRowBytes;
  static constexpr int32_t kStageBytes = 2 * kTileBytes;
  static constexpr int32_t kStages = kDim == 64 ? 5 : kDim == 96 ? 4 : 3;
  // Sums of two pairs of warps for 8 heads; the padding spreads a fragment's columns over the
  // banks.
  static constexpr int32_t kSumRow = kDim + 4;
  static constexpr int32_t kSumBytes = 2 * 8 * kSumRow * static_cast<int32_t>(sizeof(float));
  static constexpr int32_t kSharedBytes = kWarps * kStages * kStageBytes + kSumBytes;
};

// The chunks of one sequence and head group, numbered from this worker's first chunk.
struct Row {
  SequenceSpan span;
  KeyRange keys;
  int32_t sequence;
  int32_t head_group;
  int32_t begin;  // negative if other workers have its beginning
  int32_t end;

  __device__ int32_t Position(int32_t chunk) const {
    return (keys.first / kChunkTokens + chunk - begin) * kChunkTokens;
  }
};

// REQUIRES: there is one.
__device__ inline void NextRow(const PagedAttentionArgs& args, int32_t head_groups, Row& row) {
  row.begin = row.end;
  if (++row.head_group == head_groups) {
    row.head_group = 0;
    do {
      row.span = args.sequences[++row.sequence];
    } while (row.span.query_len != 1);
    row.keys = VisibleKeys(row.span.context_len, args.window);
  }
  row.end = row.begin + DecodeChunks(row.span, args.window);
}

// A warp's reads: every kWarps-th chunk of the worker. Without kReadsNewest zeros stand for a
// sequence's last position, which this very launch writes.
template <int kDim, bool kReadsNewest>
class ChunkLoader {
 public:
  __device__ ChunkLoader(const PagedAttentionArgs& args, const Row& row, int32_t head_groups,
                         int32_t passes, int32_t first_chunk, int32_t num_chunks)
      : args_(args),
        row_(row),
        head_groups_(head_groups),
        passes_(passes),
        chunk_(first_chunk),
        num_chunks_(num_chunks) {
    LookUpBlocks();
  }

  // Starts the copies of the next chunk, if there is one.
  __device__ void Load(uint32_t stage) {
    if (chunk_ >= num_chunks_) return;
    const KvCacheView& kv = args_.kv;
    const int32_t lane = threadIdx.x % 32;
    const int32_t kv_head = row_.head_group / passes_;
    const int64_t to_value = kv.value_offset - kv.layer_offset;
    const char* from[2];
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t token = kv_head * kv.block_tokens + tokens_[half];
      from[half] = static_cast<const char*>(kv.arena) + int64_t{blocks_[half]} * kv.block_bytes +
                   kv.layer_offset + (token - half * kBlockTokensStep) * kTokenBytes + lane * 16;
    }
    const int32_t last = kReadsNewest ? row_.keys.last : row_.keys.last - 1;
    const bool whole = position_ >= row_.keys.first && position_ + kChunkTokens - 1 <= last;
#pragma unroll
    for (int32_t i = 0; i < kVectorsPerLane; ++i) {
      const int32_t vector = i * 32 + lane;
      const int32_t token = vector / (kTokenBytes / 16);
      const char* key = from[i * 32 * 16 >= kBlockTokensStep * kTokenBytes] + i * 32 * 16;
      const uint32_t to = stage + (vector + token) * 16;
      if (whole) {
        CopyAsync16(to, key);
        CopyAsync16(to + Shape<kDim>::kTileBytes, key + to_value);
      } else {
        const int32_t position = position_ + token;
        const bool visible = position >= row_.keys.first && position <= last;
        CopyAsync16OrZero(to, key, visible);
        CopyAsync16OrZero(to + Shape<kDim>::kTileBytes, key + to_value, visible);
      }
    }
    chunk_ += kWarps;
    LookUpBlocks();
  }

 private:
  static constexpr int32_t kTokenBytes = kDim * 2;
  static constexpr int32_t kVectorsPerLane = kChunkTokens * kTokenBytes / 16 / 32;

  // Ahead of their use, for the table is an access of its own, behind the copies just started;
  // nothing is done with what it gives, not even widened, before the next Load.
  __device__ void LookUpBlocks() {
    if (chunk_ >= num_chunks_) return;
    while (chunk_ >= row_.end) NextRow(args_, head_groups_, row_);
    position_ = row_.Position(chunk_);
    const int32_t* table =
        args_.kv.block_tables + static_cast<int64_t>(row_.span.slot) * args_.kv.max_blocks;
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t position = position_ + half * kBlockTokensStep;
      const int32_t visible = min(max(position, row_.keys.first), row_.keys.last);
      const auto block_tokens = static_cast<uint32_t>(args_.kv.block_tokens);
      const uint32_t entry = static_cast<uint32_t>(visible) / block_tokens;
      blocks_[half] = __ldg(table + entry);
      // Outside of the block only where nothing of the half is visible, so that nothing is read.
      const uint32_t token = static_cast<uint32_t>(position) - entry * block_tokens;
      tokens_[half] = token < block_tokens ? static_cast<int32_t>(token) : 0;
    }
  }

  const PagedAttentionArgs& args_;
  Row row_;
  const int32_t head_groups_;
  const int32_t passes_;
  int32_t chunk_;
  const int32_t num_chunks_;
  int32_t position_ = 0;
  // Of each half of the chunk: its block, and its first token there.
  int32_t blocks_[2] = {0, 0};
  int32_t tokens_[2] = {0, 0};
};

// What a warp has of a row: for each of its heads (columns of a fragment) the highest score so far,
// the sum of the weights and the weighted sum of the values.
template <typename T, int kDim, int kHeadTiles>
struct WarpState {
  uint32_t query[kHeadTiles][kDim / 16][2];
  float output[kHeadTiles][kDim / 16][4];
  float maximum[kHeadTiles][2];
  float sum[kHeadTiles][2];

  // `queries` is the first of `heads` consecutive ones. They are read by plain loads, which no
  // compiler moves to before the wait for the kernel that wrote them.
  __device__ void Begin(const T* queries, int32_t heads) {
    const int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
      const int32_t head = tile * 8 + lane / 4;
      const T* from = queries + static_cast<int64_t>(head) * kDim + lane % 4 * 2;
#pragma unroll
      for (int32_t i = 0; i < kDim / 16; ++i) {
        for (int32_t j = 0; j < 2; ++j) {
          query[tile][i][j] =
              head < heads ? *reinterpret_cast<const uint32_t*>(from + i * 16 + j * 8) : 0;
        }
        for (int32_t j = 0; j < 4; ++j) output[tile][i][j] = 0;
      }
      for (int32_t j = 0; j < 2; ++j) {
        maximum[tile][j] = -INFINITY;
        sum[tile][j] = 0;
      }
    }
  }

  // The chunk at `stage`, whose first token is at `position`.
  __device__ void Add(uint32_t stage, int32_t position, KeyRange keys, float scale_log2) {
    const int32_t lane = threadIdx.x % 32;
    // Two sums, for one would be a chain of dependent products.
    float score[kHeadTiles][2][4] = {};
    const uint32_t key_row = stage + (lane % 16) * Shape<kDim>::kRowBytes + lane / 16 * 16;
#pragma unroll
    for (int32_t i = 0; i < kDim / 16; ++i) {
      uint32_t key[4];
      LoadMatrices(key, key_row + i * 32);
#pragma unroll
      for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
        MultiplyAdd<T>(score[tile][i % 2], key, query[tile][i][0], query[tile][i][1]);
      }
    }
    const bool whole = position >= keys.first && position + kChunkTokens - 1 <= keys.last;
    uint32_t weight[kHeadTiles][2];
#pragma unroll
    for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
      float s[4];
      for (int32_t j = 0; j < 4; ++j) s[j] = (score[tile][0][j] + score[tile][1][j]) * scale_log2;
      if (!whole) {
        for (int32_t j = 0; j < 4; ++j) {
          const int32_t at = position + lane / 4 + j / 2 * 8;
          if (at < keys.first || at > keys.last) s[j] = -INFINITY;
        }
      }
      float rescale[2];
      for (int32_t j = 0; j < 2; ++j) {
        float highest = fmaxf(s[j], s[j + 2]);
        for (int32_t distance = 4; distance < 32; distance *= 2) {
          highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, distance));
        }
        highest = fmaxf(highest, maximum[tile][j]);
        const float subtrahend = Subtrahend(highest);
        rescale[j] = FastExp2(maximum[tile][j] - subtrahend);
        maximum[tile][j] = highest;
        s[j] = FastExp2(s[j] - subtrahend);
        s[j + 2] = FastExp2(s[j + 2] - subtrahend);
        sum[tile][j] = sum[tile][j] * rescale[j] + (s[j] + s[j + 2]);
      }
#pragma unroll
      for (int32_t i = 0; i < kDim / 16; ++i) {
        for (int32_t j = 0; j < 4; ++j) output[tile][i][j] *= rescale[j % 2];
      }
      weight[tile][0] = TransposeMatrix(PackPair<T>(s[0], s[1]));
      weight[tile][1] = TransposeMatrix(PackPair<T>(s[2], s[3]));
    }
    const uint32_t value_row = stage + Shape<kDim>::kTileBytes +
                               (lane % 8 + lane / 16 * 8) * Shape<kDim>::kRowBytes +
                               lane / 8 % 2 * 16;
#pragma unroll
    for (int32_t i = 0; i < kDim / 16; ++i) {
      uint32_t value[4];
      LoadMatricesTransposed(value, value_row + i * 32);
#pragma unroll
      for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
        MultiplyAdd<T>(output[tile][i], value, weight[tile][0], weight[tile][1]);
      }
    }
  }

  // Adds up what the lanes have of the sums.
  __device__ void End() {
    for (int32_t tile = 0; tile < kHeadTiles; ++tile) {
      for (int32_t j = 0; j < 2; ++j) {
        for (int32_t distance = 4; distance < 32; distance *= 2) {
          sum[tile][j] += __shfl_xor_sync(kAllLanes, sum[tile][j], distance);
        }
      }
    }
  }
};

}  // namespace fathom::kernels::cuda::decode
