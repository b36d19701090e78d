#include "kernels/cpu/fast_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/status_macros.h"
#include "kernels/bfloat16.h"
#include "kernels/check_args.h"
#include "kernels/cpu/fast_linear.h"
#include "kernels/cpu/host_backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/thread_pool.h"

namespace fathom::kernels::cpu {
namespace {

// Rough speeds of one thread, only to decide whether a loop is worth waking others for.
constexpr double kElementsPerUs = 2000;
constexpr double kSincosPerUs = 60;
constexpr double kAttendedPerUs = 4000;  // key elements

static_assert(kWidestHead == kMaxHeadDim);

int TableIndex(DType dtype) { return dtype == DType::kBF16 ? 1 : 0; }

class FastBackend final : public HostBackend {
 public:
  FastBackend(const FastOptions& options, Isa isa)
      : kernels_(KernelsFor(isa)),
        batch_invariant_(options.batch_invariant),
        pool_(options.threads),
        linear_(&kernels_, &pool_, batch_invariant_ ? nullptr : std::make_unique<OneDnnGemm>(isa)),
        attention_scratch_(pool_.num_threads()) {
    for (auto& scratch : attention_scratch_) scratch = std::make_unique<AttentionScratch>();
  }

  const char* name() const override { return "fast"; }
  bool batch_invariant() const override { return batch_invariant_; }

 private:
  absl::StatusOr<std::unique_ptr<PackedMatrix>> DoPackMatrix(std::span<const TensorView> parts,
                                                             int32_t rows, int32_t cols,
                                                             DType dtype) override {
    linear_.Reserve(cols);
    return PackPanels(parts, rows, cols, dtype, *this, pool_);
  }

  absl::Status DoLinear(const LinearArgs& args, const PackedMatrix& weight) override {
    linear_.Run(args, static_cast<const PackedPanels&>(weight));
    return absl::OkStatus();
  }

  absl::Status DoEmbedding(const EmbeddingArgs& args) override {
    for (int32_t token = 0; token < args.num_tokens; ++token) {
      const int64_t from = int64_t{EmbeddingId(args, token)} * args.hidden;
      const int64_t to = int64_t{token} * args.hidden;
      const auto size = static_cast<int64_t>(SizeOf(args.dtype));
      char* out = static_cast<char*>(args.out) + to * size;
      const auto* table = static_cast<const char*>(args.table);
      if (args.dtype == args.table_dtype) {
        std::memcpy(out, table + from * size, static_cast<size_t>(args.hidden * size));
      } else if (args.dtype == DType::kF32) {
        kernels_.to_float(reinterpret_cast<float*>(out), table + from * sizeof(BFloat16),
                          args.hidden);
      } else {
        const float* row = static_cast<const float*>(args.table) + from;
        for (int32_t i = 0; i < args.hidden; ++i) {
          reinterpret_cast<BFloat16*>(out)[i] = ToBFloat16(row[i]);
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status DoRmsNorm(const RmsNormArgs& args) override {
    const auto row_bytes = static_cast<int64_t>(args.dim * SizeOf(args.dtype));
    const auto norm = kernels_.rms_norm[TableIndex(args.dtype)];
    pool_.ParallelFor(
        args.rows, 1.0 * args.rows * args.dim / kElementsPerUs, [&](int64_t row, int32_t) {
          const int64_t at = row * row_bytes;
          void* residual =
              args.residual == nullptr ? nullptr : static_cast<char*>(args.residual) + at;
          norm(static_cast<char*>(args.out) + at, static_cast<const char*>(args.x) + at, residual,
               args.weight, args.dim, args.eps);
        });
    return absl::OkStatus();
  }

  absl::Status DoRotaryTable(const RotaryTableArgs& args) override {
    pool_.ParallelFor(args.num_tokens, 1.0 * args.num_tokens * args.half_dim / kSincosPerUs,
                      [&](int64_t token, int32_t) {
                        float* cosine = args.cos_sin + token * 2 * args.half_dim;
                        const auto position = static_cast<float>(args.positions[token]);
                        for (int32_t i = 0; i < args.half_dim; ++i) {
                          const float angle = position * args.inv_freq[i];
                          cosine[i] = std::cos(angle) * args.scale;
                          cosine[args.half_dim + i] = std::sin(angle) * args.scale;
                        }
                      });
    return absl::OkStatus();
  }

  absl::Status DoRotaryKvWrite(const RotaryKvWriteArgs& args) override {
    const KvCacheView& kv = args.kv;
    const int64_t num_heads = args.num_q_heads + 2 * kv.num_kv_heads;
    const auto head_bytes = static_cast<int64_t>(kv.head_dim * SizeOf(args.dtype));
    const auto rotate = kernels_.rotate_heads[TableIndex(args.dtype)];
    pool_.ParallelFor(
        args.num_tokens, 1.0 * args.num_tokens * num_heads * kv.head_dim / kElementsPerUs,
        [&](int64_t token, int32_t) {
          char* heads = static_cast<char*>(args.qkv) + token * num_heads * head_bytes;
          char* keys = heads + args.num_q_heads * head_bytes;
          const float* cos_sin = args.cos_sin + token * kv.head_dim;
          rotate(heads, args.num_q_heads, kv.head_dim, cos_sin, args.q_norm_weight, args.norm_eps);
          rotate(keys, kv.num_kv_heads, kv.head_dim, cos_sin, args.k_norm_weight, args.norm_eps);
          WriteKv(args, token, keys, head_bytes);
        });
    return absl::OkStatus();
  }

  static void WriteKv(const RotaryKvWriteArgs& args, int64_t token, const char* keys,
                      int64_t head_bytes) {
    const KvCacheView& kv = args.kv;
    const int32_t position = args.kv_positions[token];
    const int64_t entry =
        int64_t{args.token_slots[token]} * kv.max_blocks + position / kv.block_tokens;
    char* block = static_cast<char*>(kv.arena) + kv.block_tables[entry] * kv.block_bytes;
    const char* values = keys + kv.num_kv_heads * head_bytes;
    for (int32_t head = 0; head < kv.num_kv_heads; ++head) {
      const int64_t row =
          (int64_t{head} * kv.block_tokens + position % kv.block_tokens) * head_bytes;
      std::memcpy(block + kv.layer_offset + row, keys + head * head_bytes, head_bytes);
      std::memcpy(block + kv.value_offset + row, values + head * head_bytes, head_bytes);
    }
  }

  absl::Status DoPagedAttention(const PagedAttentionArgs& args) override {
    const int32_t group = args.num_q_heads / args.kv.num_kv_heads;
    const int32_t most_rows = kernels_.query_rows[TableIndex(args.dtype)];
    attention_tasks_.clear();
    double keys = 0;
    for (int32_t i = 0; i < args.num_sequences; ++i) {
      const SequenceSpan& sequence = args.sequences[i];
      const int32_t rows = sequence.query_len * group;
      keys += 1.0 * (sequence.context_len + sequence.query_len) * rows;
      for (int32_t row = 0; row < rows; row += most_rows) {
        for (int32_t head = 0; head < args.kv.num_kv_heads; ++head) {
          attention_tasks_.push_back({&args, sequence, head, row, std::min(most_rows, rows - row)});
        }
      }
    }
    const auto attend = kernels_.attend[TableIndex(args.dtype)];
    pool_.ParallelFor(static_cast<int64_t>(attention_tasks_.size()),
                      keys * args.kv.num_kv_heads * args.kv.head_dim / kAttendedPerUs,
                      [&](int64_t i, int32_t thread) {
                        attend(attention_tasks_[i], *attention_scratch_[thread]);
                      });
    return absl::OkStatus();
  }

  absl::Status DoSiluMul(const SiluMulArgs& args) override {
    const auto row_bytes = static_cast<int64_t>(args.dim * SizeOf(args.dtype));
    const auto silu_mul = kernels_.silu_mul[TableIndex(args.dtype)];
    pool_.ParallelFor(
        args.rows, 1.0 * args.rows * args.dim / kElementsPerUs * 4, [&](int64_t row, int32_t) {
          const char* gate = static_cast<const char*>(args.gate_up) + row * 2 * row_bytes;
          silu_mul(static_cast<char*>(args.out) + row * row_bytes, gate, gate + row_bytes,
                   args.dim);
        });
    return absl::OkStatus();
  }

  const KernelTable& kernels_;
  const bool batch_invariant_;
  ThreadPool pool_;
  FastLinear linear_;
  std::vector<AttentionTask> attention_tasks_;
  std::vector<std::unique_ptr<AttentionScratch>> attention_scratch_;  // [threads]
};

}  // namespace

std::unique_ptr<Backend> CreateFastBackend(const FastOptions& options, Isa isa) {
  return std::make_unique<FastBackend>(options, isa);
}

absl::StatusOr<std::unique_ptr<Backend>> CreateFastBackend(const FastOptions& options) {
  const std::optional<Isa> isa = DetectIsa();
  if (!isa) {
    return absl::FailedPreconditionError(
        "the fast CPU backend needs AVX2 and FMA; choose the reference backend on this machine");
  }
  return CreateFastBackend(options, *isa);
}

}  // namespace fathom::kernels::cpu
