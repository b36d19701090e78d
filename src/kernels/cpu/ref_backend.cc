#include "kernels/cpu/ref_backend.h"

#include <utility>

#include "common/status_macros.h"
#include "kernels/cpu/host_backend.h"
#include "kernels/cpu/ref_ops.h"

namespace fathom::kernels::cpu {
namespace {

// Row-major [rows, cols].
class RefMatrix final : public PackedMatrix {
 public:
  RefMatrix(int32_t rows, int32_t cols, DType dtype, DeviceBuffer data)
      : PackedMatrix(rows, cols, dtype), data_(std::move(data)) {}
  const void* data() const { return data_.data(); }

 private:
  const DeviceBuffer data_;
};

// Calls `fn` with a value of the type that `dtype` (F32 or BF16) stores.
template <typename Fn>
absl::Status Dispatch(DType dtype, Fn&& fn) {
  if (dtype == DType::kF32) {
    fn(float{});
  } else {
    fn(BFloat16{});
  }
  return absl::OkStatus();
}

class RefBackend final : public HostBackend {
 public:
  const char* name() const override { return "ref"; }
  bool batch_invariant() const override { return true; }

 private:
  absl::StatusOr<std::unique_ptr<PackedMatrix>> DoPackMatrix(std::span<const TensorView> parts,
                                                             int32_t rows, int32_t cols,
                                                             DType dtype) override {
    ASSIGN_OR_RETURN(DeviceBuffer data, Allocate(static_cast<size_t>(rows) * cols * SizeOf(dtype)));
    RETURN_IF_ERROR(Dispatch(dtype, [&](auto type) {
      auto* out = data.as<decltype(type)>();
      for (const TensorView& part : parts) {
        const int64_t count = part.NumElements();
        for (int64_t i = 0; i < count; ++i) StoreFloat(out++, LoadElement(part, i));
      }
    }));
    return std::make_unique<RefMatrix>(rows, cols, dtype, std::move(data));
  }

  absl::Status DoEmbedding(const EmbeddingArgs& args) override {
    return Dispatch(args.dtype, [&](auto type) {
      if (args.table_dtype == DType::kF32) {
        ref::Embedding<decltype(type), float>(args);
      } else {
        ref::Embedding<decltype(type), BFloat16>(args);
      }
    });
  }

  absl::Status DoRmsNorm(const RmsNormArgs& args) override {
    return Dispatch(args.dtype, [&](auto type) { ref::RmsNorm<decltype(type)>(args); });
  }

  absl::Status DoRotaryTable(const RotaryTableArgs& args) override {
    for (int32_t token = 0; token < args.num_tokens; ++token) {
      float* cosine = args.cos_sin + static_cast<int64_t>(token) * 2 * args.half_dim;
      for (int32_t i = 0; i < args.half_dim; ++i) {
        const float angle = static_cast<float>(args.positions[token]) * args.inv_freq[i];
        cosine[i] = std::cos(angle) * args.scale;
        cosine[args.half_dim + i] = std::sin(angle) * args.scale;
      }
    }
    return absl::OkStatus();
  }

  absl::Status DoRotaryKvWrite(const RotaryKvWriteArgs& args) override {
    return Dispatch(args.dtype, [&](auto type) { ref::RotaryKvWrite<decltype(type)>(args); });
  }

  absl::Status DoPagedAttention(const PagedAttentionArgs& args) override {
    return Dispatch(args.dtype, [&](auto type) { ref::PagedAttention<decltype(type)>(args); });
  }

  absl::Status DoSiluMul(const SiluMulArgs& args) override {
    return Dispatch(args.dtype, [&](auto type) { ref::SiluMul<decltype(type)>(args); });
  }

  absl::Status DoLinear(const LinearArgs& args, const PackedMatrix& weight) override {
    const auto& matrix = static_cast<const RefMatrix&>(weight);
    return Dispatch(args.dtype, [&](auto x) {
      (void)Dispatch(args.out_dtype, [&](auto out) {
        (void)Dispatch(matrix.dtype(), [&](auto w) {
          ref::Linear<decltype(x), decltype(w), decltype(out)>(
              args, static_cast<const decltype(w)*>(matrix.data()), matrix.rows(), matrix.cols());
        });
      });
    });
  }
};

}  // namespace

std::unique_ptr<Backend> CreateRefBackend() { return std::make_unique<RefBackend>(); }

}  // namespace fathom::kernels::cpu
