#include "worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "text/text.h"
#include "worker/command_line.h"
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
constexpr size_t kPrefixSecretBytes = 32;
constexpr absl::Duration kDrainPoll = absl::Milliseconds(5);

absl::StatusOr<ModelOptions> ModelOptionsOf(const config::Worker& config) {
  ModelOptions options;
  ASSIGN_OR_RETURN(const DeviceChoice device, ParseDevice(config.device()));
  options.path = config.model_path();
  options.dummy_shape = config.dummy_weights();
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

MemoryWishes WishesOf(const config::Worker& config) {
  MemoryWishes wishes;
  wishes.device = config.device();
  wishes.kv_cache_bytes = config.kv_cache_bytes();
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

v1::Hello HelloOf(const config::Worker& config, Random& random) {
  v1::Hello hello;
  hello.set_worker_id(config.id());
  hello.set_incarnation(absl::HexStringToBytes(RandomHex(random, 16)));
  hello.set_build(kVersion);
  *hello.mutable_labels() = config.labels();
  v1::Device* device = hello.add_devices();
  device->set_kind(config.device());
  device->set_name(config.backend());
  return hello;
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

int64_t MilliSince(const Clock* clock, int64_t start_ns) {
  return (clock->MonotonicNs() - start_ns) / 1'000'000;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const config::Worker& config,
                                                      const Clock* clock, Random* random,
                                                      const Device& device) {
  std::unique_ptr<Worker> worker(new Worker(clock, random));
  RETURN_IF_ERROR(worker->StartHealth(config));
  RETURN_IF_ERROR(worker->StartEngine(config, device));
  RETURN_IF_ERROR(worker->StartLink());
  worker->started_ = true;
  return worker;
}

absl::Status Worker::StartHealth(const config::Worker& config) {
  if (config.metrics_port() >= 0) {
    ASSIGN_OR_RETURN(
        health_, HealthServer::Start(config.bind(), static_cast<uint16_t>(config.metrics_port()),
                                     {.ready = [this] { return Ready(); },
                                      .before_metrics = [this] { RefreshMetrics(); }}));
  }
  if (config.ports_file().empty()) return absl::OkStatus();
  return WriteFileAtomically(config.ports_file(),
                             absl::StrCat("{\"metrics\": ", metrics_port(), "}\n"));
}

absl::Status Worker::StartEngine(const config::Worker& config, const Device& device) {
  const int64_t start_ns = clock_->MonotonicNs();
  auto tokenizer_loading = std::async(std::launch::async, [path = config.model_path()] {
    return text::Tokenizer::FromDirectory(path);
  });
  ASSIGN_OR_RETURN(ModelOptions model_options, ModelOptionsOf(config));
  const MemoryWishes wishes = WishesOf(config);
  // Stays empty where a simulated device has no sizes.
  std::optional<ModelSizes> sizes;
  int64_t free_before = 0;
  model_options.approve = [&](const ModelSizes& measured) -> absl::Status {
    sizes = measured;
    if (measured.device) {
      free_before = measured.device->free_bytes;
    } else {
      ASSIGN_OR_RETURN(free_before, FreeMemoryBytes());
    }
    return CheckFits(measured, wishes, free_before);
  };
  absl::StatusOr<std::unique_ptr<Model>> loaded = device.load(model_options);
  auto tokenizer = tokenizer_loading.get();
  RETURN_IF_ERROR(loaded.status());
  RETURN_IF_ERROR(tokenizer.status());
  std::unique_ptr<Model> model = *std::move(loaded);
  const ModelConfig model_config = model->config();

  int64_t kv_bytes = config.kv_cache_bytes();
  if (kv_bytes == 0) {
    ASSIGN_OR_RETURN(const int64_t free_bytes, FreeBytesOf(*model));
    kv_bytes = KvShareBytes(sizes.value_or(ModelSizes{}), free_bytes);
  }
  const int32_t max_context =
      ContextOf(config, model_config.max_context, model->kv_spec(), kv_bytes);
  ASSIGN_OR_RETURN(const KvPlan plan,
                   PlanKv(model->kv_spec(), kv_bytes, max_context, config.max_sequences()));
  RETURN_IF_ERROR(model->AllocateKv(plan));
  const int32_t block_tokens = model->kv_spec().block_tokens;
  const int64_t kv_blocks = *std::min_element(plan.num_blocks.begin(), plan.num_blocks.end());
  const int64_t kv_tokens = kv_blocks * block_tokens;
  if (sizes) TellMemory(PlanOf(*sizes, wishes, free_before, kv_blocks));

  ASSIGN_OR_RETURN(auto compiler, text::GrammarCompiler::Create(*tokenizer, model_config.vocab_size,
                                                                model_config.eos_token_ids));
  EngineOptions options = OptionsFor(*model, plan);
  options.max_context = max_context;
  options.max_step_tokens = model_options.max_step_tokens;
  options.max_logit_rows = model_options.max_logit_rows;
  options.prefix_cache = config.prefix_cache();
  options.prefix_secret = RandomBytes(*random_, kPrefixSecretBytes);

  link_options_.masters.assign(config.masters().begin(), config.masters().end());
  link_options_.hello = HelloOf(config, *random_);
  if (sizes && sizes->device) {
    v1::Device* described = link_options_.hello.mutable_devices(0);
    described->set_name(sizes->device->name);
    described->set_memory_bytes(sizes->device->total_bytes);
    gpu_ = std::make_unique<GpuMonitor>(sizes->device->pci_bus_id);
  }
  link_options_.capacity = kv_tokens * kOvercommit;
  link_options_.tls = {.ca = config.link_tls().ca(),
                       .certificate = config.link_tls().certificate(),
                       .key = config.link_tls().key()};
  link_options_.insecure = config.insecure_link();
  link_options_.clock = clock_;
  link_options_.random = random_;
  v1::LoadedModel* served = link_options_.hello.add_models();
  served->set_name(config.model_name());
  served->set_config_digest(model_config.digest);
  served->set_tokenizer_digest((*tokenizer)->digest());
  served->set_context_length(max_context);
  served->set_vocab_size(model_config.vocab_size);
  served->set_kv_tokens(kv_tokens);
  served->set_kv_block_tokens(block_tokens);
  served->set_max_sequences(config.max_sequences());
  if (options.prefix_cache) served->set_kv_scope(options.kv_scope);

  link_ = std::make_unique<LinkClient>(link_options_);
  ASSIGN_OR_RETURN(auto executor, device.make_executor(std::move(model), config.max_sequences()));
  ASSIGN_OR_RETURN(engine_,
                   Engine::Create(std::move(options), std::move(executor),
                                  MakeGrammarFactory(std::move(compiler)), link_.get(), clock_));
  LogInfo("worker", "model loaded",
          {{"labels.model", config.model_name()},
           {"labels.kv_tokens", kv_tokens},
           {"labels.max_context", int64_t{max_context}},
           {"event.duration", (clock_->MonotonicNs() - start_ns)},
           {"labels.milliseconds", MilliSince(clock_, start_ns)}});
  return absl::OkStatus();
}

absl::Status Worker::StartLink() {
  return link_->Start(
      {.submit = [this](EngineRequest request) { return engine_->Submit(std::move(request)); },
       .cancel =
           [this](const std::string& id, uint32_t attempt, std::vector<int32_t> choices) {
             engine_->Cancel(id, attempt, std::move(choices));
           },
       .leave = [this] { leave_asked_ = true; },
       .stats = [this] { return engine_->Stats(); },
       .cache_changes = [this] { return engine_->TakeCacheChanges(); }});
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  health_.reset();
  if (engine_ != nullptr) engine_->Stop();
  if (link_ != nullptr) link_->Stop();
}

absl::Status Worker::Ready() const {
  if (!started_) return absl::UnavailableError("the model is being loaded");
  if (draining_) return absl::UnavailableError("the worker is leaving");
  RETURN_IF_ERROR(Health());
  if (link_->linked() == 0) return absl::UnavailableError("no master is linked");
  return absl::OkStatus();
}

absl::Status Worker::Health() const {
  RETURN_IF_ERROR(engine_->Health());
  const int64_t deadline_ns = engine_->Stats().step_deadline_ns;
  if (deadline_ns != 0 && clock_->MonotonicNs() > deadline_ns) {
    return absl::DeadlineExceededError(
        "the device does not answer: the engine's step is past its deadline");
  }
  return absl::OkStatus();
}

void Worker::SayCrashed() { link_->SayCrashed(); }

void Worker::Drain(absl::Duration limit, const std::function<bool(absl::Duration)>& interrupted) {
  draining_ = true;
  link_->Leave("the worker was asked to stop");
  const absl::Duration deadline = clock_->Monotonic() + limit;
  while (!link_->idle() && clock_->Monotonic() < deadline) {
    if (interrupted(kDrainPoll)) return;
  }
}

void Worker::RefreshMetrics() {
  if (started_) metrics_.Refresh(engine_->Stats(), link_->linked(), link_->unfinished());
}

}  // namespace fathom::worker
