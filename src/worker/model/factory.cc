#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cpu/fast_backend.h"
#include "kernels/cpu/ref_backend.h"
#ifdef FATHOM_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif
#include "worker/model/checkpoint.h"
#include "worker/model/counted_source.h"
#include "worker/model/decoder.h"
#include "worker/model/model.h"
#include "worker/model/model_shapes.h"
#include "worker/model/random_weights.h"

namespace fathom::worker {
namespace {

constexpr uint64_t kDummySeed = 1;

#ifndef FATHOM_CUDA
absl::Status NoCuda() {
  return absl::FailedPreconditionError(
      "this build has no CUDA backend: use --device cpu, or build the preset `cuda` "
      "(scripts/build_cuda.sh fathom-worker)");
}
#endif

absl::StatusOr<std::unique_ptr<kernels::Backend>> CreateBackend(const ModelOptions& options,
                                                                int32_t vocab_size) {
  switch (options.backend) {
    case BackendKind::kRef:
      return kernels::cpu::CreateRefBackend();
    case BackendKind::kFast:
      return kernels::cpu::CreateFastBackend({options.threads, options.batch_invariant});
    case BackendKind::kCuda:
#ifdef FATHOM_CUDA
      return kernels::cuda::CreateCudaBackend(
          {.ordinal = options.device_ordinal,
           .max_rows = std::max(options.max_sequences, options.max_logit_rows),
           .max_vocab = vocab_size,
           .batch_invariant = options.batch_invariant});
#else
      (void)vocab_size;
      return NoCuda();
#endif
  }
  return absl::InvalidArgumentError("unknown backend");
}

absl::StatusOr<std::unique_ptr<Model>> Load(std::unique_ptr<kernels::Backend> backend,
                                            ModelConfig config, const TensorSource& source,
                                            DType dtype, const ModelOptions& options) {
  const Decoder::Limits limits = {options.max_step_tokens, options.max_logit_rows,
                                  options.block_tokens};
  int64_t total = 0;
  if (options.approve) {
    const CountedSource counted(&source);  // the dry run asks for what the loading will read
    ASSIGN_OR_RETURN(const ModelSizes sizes,
                     Decoder::Measure(*backend, config, counted, dtype, limits));
    RETURN_IF_ERROR(options.approve(sizes));
    total = counted.bytes();
  }
  const CountedSource counted(&source, [&options, total](int64_t done) {
    return options.progress ? options.progress(done, total) : absl::OkStatus();
  });
  return Decoder::Create(std::move(backend), std::move(config), counted, dtype, limits);
}

absl::Status CheckOptions(const ModelOptions& options) {
  if (options.max_step_tokens < 1 || options.max_logit_rows < 1 || options.block_tokens < 1) {
    return absl::InvalidArgumentError("model options: sizes must be positive");
  }
  if (options.max_logit_rows > options.max_step_tokens) {
    return absl::InvalidArgumentError("model options: max_logit_rows above max_step_tokens");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<kernels::DeviceFacts>> DescribeDevice(const ModelOptions& options,
                                                                   bool trim) {
  if (options.backend != BackendKind::kCuda) return std::nullopt;
#ifdef FATHOM_CUDA
  return kernels::cuda::DescribeGpu(options.device_ordinal, trim);
#else
  (void)trim;
  return NoCuda();
#endif
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const ModelOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(ModelConfig config, options.dummy_shape.empty()
                                           ? LoadModelConfig(options.path)
                                           : ConfigOfShape(options.dummy_shape));
  int32_t live_tokens = config.vocab_size;
  if (!options.dummy_shape.empty() && !options.path.empty()) {
    // It passes for the checkpoint, whose tokenizer reads what it writes.
    ASSIGN_OR_RETURN(const ModelConfig stood_for, LoadModelConfig(options.path));
    config.digest = stood_for.digest;
    // Behind the first one that ends a text lie tokens without text, or none.
    live_tokens = stood_for.vocab_size;
    for (const TokenId id : stood_for.eos_token_ids) live_tokens = std::min(live_tokens, id);
  }
  ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> backend,
                   CreateBackend(options, config.vocab_size));
  // A CPU does not compute in F16; BF16 would lose what its mantissa holds.
  const DType stored = backend->Stores(config.dtype) ? config.dtype : DType::kF32;
  const DType dtype = options.compute_dtype.value_or(stored);
  if (!backend->Stores(dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", backend->name(), " backend does not compute in ", Name(dtype)));
  }
  if (!options.dummy_shape.empty()) {
    const RandomWeights random(config, dtype, kDummySeed, live_tokens);
    return Load(std::move(backend), std::move(config), random, dtype, options);
  }
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(options.path));
  return Load(std::move(backend), std::move(config), checkpoint, dtype, options);
}

}  // namespace fathom::worker
