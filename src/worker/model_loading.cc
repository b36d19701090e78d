#include "worker/model_loading.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "text/text.h"
#include "worker/command_line.h"
#include "worker/loaded_engine.h"
#include "worker/memory_budget.h"
#include "worker/memory_plan.h"
#include "worker/model/kv_plan.h"
#include "worker/model/model.h"
#include "worker/sampling/grammar.h"

namespace fathom::worker {
namespace {

// Requests seldom use all the tokens they may: masters may give out that many times the KV cache.
// What runs beyond it waits or is preempted in the engine.
constexpr int64_t kOvercommit = 2;
constexpr size_t kSecretBytes = 32;

using TokenizerPtr = std::shared_ptr<const text::Tokenizer>;

absl::StatusOr<ModelOptions> ModelOptionsOf(const config::Worker& config, const LoadOrder& order) {
  ModelOptions options;
  ASSIGN_OR_RETURN(const DeviceChoice device, ParseDevice(config.device()));
  options.path = order.path;
  options.dummy_shape = order.dummy_shape;
  if (config.dtype() == "bf16") options.compute_dtype = DType::kBF16;
  if (config.dtype() == "f32") options.compute_dtype = DType::kF32;
  if (config.dtype() == "f16") options.compute_dtype = DType::kF16;
  options.backend = config.backend() == "ref" ? BackendKind::kRef : BackendKind::kFast;
  if (device.cuda) options.backend = BackendKind::kCuda;
  options.device_ordinal = device.ordinal;
  options.max_sequences = config.max_sequences();
  options.threads = config.threads();
  options.batch_invariant = config.batch_invariant();
  options.max_step_tokens = config.step_tokens();
  options.max_logit_rows = LogitRows(config.step_tokens(), config.max_sequences());
  return options;
}

MemoryWishes WishesOf(const config::Worker& config, const LoadOrder& order) {
  MemoryWishes wishes;
  wishes.device = config.device();
  wishes.kv_cache_bytes = order.kv_cache_bytes > 0 ? order.kv_cache_bytes : config.kv_cache_bytes();
  wishes.max_context = config.max_context();
  wishes.max_sequences = config.max_sequences();
  wishes.step_tokens = config.step_tokens();
  return wishes;
}

// Of the device's own memory, or of the process's.
absl::StatusOr<int64_t> FreeBytesOf(Model& model) {
  if (model.backend() != nullptr) {
    ASSIGN_OR_RETURN(const auto device, model.backend()->Facts());
    if (device) return device->free_bytes;
  }
  return FreeMemoryBytes();
}

void TellMemory(const MemoryPlan& plan) {
  LogMemory(plan);
  if (isatty(STDERR_FILENO) == 1) std::fputs(MemoryTable(plan).c_str(), stderr);
}

// What a sequence may have at most: what was asked for, or else what the model says and the cache
// can hold.
int32_t ContextOf(const config::Worker& config, int32_t model_max, const KvSpec& spec,
                  int64_t kv_bytes) {
  if (config.max_context() > 0) return std::min(model_max, config.max_context());
  int64_t block_bytes = 0;
  for (size_t group = 0; group < spec.groups.size(); ++group) {
    block_bytes += spec.BytesPerBlock(group);
  }
  const int64_t tokens = kv_bytes / std::max<int64_t>(1, block_bytes) * spec.block_tokens;
  return static_cast<int32_t>(
      std::clamp<int64_t>(tokens, std::min(model_max, kSmallestContext), model_max));
}

absl::Status CheckDigest(absl::string_view file, const std::string& there,
                         const std::string& wanted) {
  if (wanted.empty() || there == wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(file, " has the digest ", there, ", not ", wanted.substr(0, 128)));
}

int64_t KvBytesOf(const KvSpec& spec, const KvPlan& plan) {
  int64_t bytes = 0;
  for (size_t group = 0; group < spec.groups.size(); ++group) {
    bytes += plan.num_blocks[group] * spec.BytesPerBlock(group);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::optional<kernels::DeviceFacts>> DescribeDevice(const config::Worker& config,
                                                                   const Device& device,
                                                                   bool trim) {
  ASSIGN_OR_RETURN(const ModelOptions options, ModelOptionsOf(config, {}));
  return device.describe(options, trim);
}

absl::StatusOr<Loaded> ModelLoading::Load(const LoadOrder& order,
                                          const ModelHost::Progress& progress) {
  const int64_t start_ns = clock_->MonotonicNs();
  if (!order.config_digest.empty()) {
    ASSIGN_OR_RETURN(const ModelConfig there, LoadModelConfig(order.path));
    RETURN_IF_ERROR(CheckDigest("config.json", there.digest, order.config_digest));
  }
  std::shared_future<absl::StatusOr<TokenizerPtr>> tokenizer_loading =
      std::async(std::launch::async, [path = order.path]() -> absl::StatusOr<TokenizerPtr> {
        return text::Tokenizer::FromDirectory(path);
      });
  const auto check_tokenizer = [&]() -> absl::Status {
    RETURN_IF_ERROR(tokenizer_loading.get().status());
    return CheckDigest("tokenizer.json", (*tokenizer_loading.get())->digest(),
                       order.tokenizer_digest);
  };
  ASSIGN_OR_RETURN(ModelOptions model_options, ModelOptionsOf(config_, order));
  const MemoryWishes wishes = WishesOf(config_, order);
  // Stays empty where a simulated device has no sizes.
  std::optional<ModelSizes> sizes;
  int64_t free_before = 0;
  model_options.approve = [&](const ModelSizes& measured) -> absl::Status {
    if (!order.tokenizer_digest.empty()) RETURN_IF_ERROR(check_tokenizer());
    sizes = measured;
    if (measured.device) {
      free_before = measured.device->free_bytes;
    } else {
      ASSIGN_OR_RETURN(free_before, FreeMemoryBytes());
    }
    return CheckFits(measured, wishes, free_before);
  };
  model_options.progress = progress;
  absl::StatusOr<std::unique_ptr<Model>> loaded = device_.load(model_options);
  const absl::Status tokenizer_status = check_tokenizer();  // waits for it in any case
  RETURN_IF_ERROR(loaded.status());
  RETURN_IF_ERROR(tokenizer_status);
  const TokenizerPtr tokenizer = *tokenizer_loading.get();
  std::unique_ptr<Model> model = *std::move(loaded);
  const ModelConfig model_config = model->config();

  int64_t kv_bytes = wishes.kv_cache_bytes;
  if (kv_bytes == 0) {
    ASSIGN_OR_RETURN(const int64_t free_bytes, FreeBytesOf(*model));
    kv_bytes = KvShareBytes(sizes.value_or(ModelSizes{}), free_bytes);
  }
  const KvSpec spec = model->kv_spec();
  const int32_t max_context = ContextOf(config_, model_config.max_context, spec, kv_bytes);
  ASSIGN_OR_RETURN(const KvPlan plan, PlanKv(spec, kv_bytes, max_context, config_.max_sequences()));
  RETURN_IF_ERROR(model->AllocateKv(plan));
  const int64_t kv_blocks = *std::min_element(plan.num_blocks.begin(), plan.num_blocks.end());
  const int64_t kv_tokens = kv_blocks * spec.block_tokens;
  Loaded result;
  result.capacity = kv_tokens * kOvercommit;
  result.memory_bytes = KvBytesOf(spec, plan);
  if (sizes) {
    const MemoryPlan memory = PlanOf(*sizes, wishes, free_before, kv_blocks);
    TellMemory(memory);
    result.memory_bytes +=
        memory.weight_bytes + memory.scratch_bytes + memory.workspace_bytes + memory.graph_bytes;
  }

  ASSIGN_OR_RETURN(auto compiler, text::GrammarCompiler::Create(tokenizer, model_config.vocab_size,
                                                                model_config.eos_token_ids));
  EngineOptions options = OptionsFor(*model, plan);
  options.max_context = max_context;
  options.max_step_tokens = model_options.max_step_tokens;
  options.max_logit_rows = model_options.max_logit_rows;
  options.prefix_cache = config_.prefix_cache();
  options.prefix_secret = RandomBytes(*random_, kSecretBytes);

  v1::LoadedModel& served = result.model;
  served.set_name(order.model);
  served.set_config_digest(model_config.digest);
  served.set_tokenizer_digest(tokenizer->digest());
  served.set_context_length(max_context);
  served.set_vocab_size(model_config.vocab_size);
  served.set_kv_tokens(kv_tokens);
  served.set_kv_block_tokens(spec.block_tokens);
  served.set_max_sequences(config_.max_sequences());
  if (options.prefix_cache) served.set_kv_scope(options.kv_scope);

  ASSIGN_OR_RETURN(auto executor, device_.make_executor(std::move(model), config_.max_sequences()));
  ASSIGN_OR_RETURN(result.engine,
                   LoadedEngine::Create(std::move(options), std::move(executor),
                                        MakeGrammarFactory(std::move(compiler)),
                                        RandomBytes(*random_, kSecretBytes), sink_, clock_));
  const int64_t took_ns = clock_->MonotonicNs() - start_ns;
  LogInfo("worker", "model loaded",
          {{"labels.model", order.model},
           {"labels.kv_tokens", kv_tokens},
           {"labels.max_context", int64_t{max_context}},
           {"event.duration", took_ns},
           {"labels.milliseconds", took_ns / 1'000'000}});
  return result;
}

int64_t ModelLoading::FreeMemory(bool released) {
  // What the allocator keeps for later is free for others. While it goes (90 ms a GiB of what is
  // free in one arena) threads of that arena wait; weights and KV caches are mappings and not in
  // any.
  if (released) malloc_trim(0);
  const auto device = DescribeDevice(config_, device_, released);
  if (device.ok() && device->has_value()) return (*device)->free_bytes;
  return device.ok() ? FreeMemoryBytes().value_or(0) : 0;
}

}  // namespace fathom::worker
