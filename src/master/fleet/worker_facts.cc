#include "master/fleet/worker_facts.h"

#include <algorithm>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "master/fleet/link_messages.h"

namespace fathom::master {
namespace {

constexpr int64_t kQueuedTokensMax = int64_t{1} << 40;
constexpr float kRateMax = 1e9F;
constexpr size_t kErrorBytesMax = 1024;
constexpr size_t kBuildBytesMax = 256;
constexpr size_t kDeviceBytesMax = 1024;

// A rate that figures can be made of, whatever it is.
float Sane(float rate) { return rate > 0 ? std::min(rate, kRateMax) : 0; }
int32_t Count(int32_t count) { return std::clamp(count, 0, kWorkerCountMax); }

// Of Heartbeat and of v1::ModelFigures, whose fields have the same names.
template <typename Message>
ModelFigures FiguresOf(const Message& message) {
  return {.credit = std::max<int64_t>(0, message.credit()),
          .waiting = Count(message.waiting()),
          .running = Count(message.running()),
          .free_blocks = Count(message.free_blocks()),
          .total_blocks = Count(message.total_blocks()),
          .tokens_per_second = Sane(message.tokens_per_second()),
          .queued_tokens = std::clamp<int64_t>(message.queued_tokens(), 0, kQueuedTokensMax),
          .prefill_tokens_per_second = Sane(message.prefill_tokens_per_second()),
          .step_seconds = static_cast<float>(std::max(0, message.step_time_us())) * 1e-6F};
}

WorkerState StateOf(v1::EngineState state) {
  switch (state) {
    case v1::ENGINE_STATE_READY:
      return WorkerState::kReady;
    case v1::ENGINE_STATE_DRAINING:
      return WorkerState::kDraining;
    default:
      return WorkerState::kLoading;
  }
}

// Nothing for phases of a newer protocol.
std::optional<ModelPhase> PhaseOf(v1::ModelPhase phase) {
  switch (phase) {
    case v1::MODEL_PHASE_LOADING:
      return ModelPhase::kLoading;
    case v1::MODEL_PHASE_WARMING:
      return ModelPhase::kWarming;
    case v1::MODEL_PHASE_READY:
      return ModelPhase::kReady;
    case v1::MODEL_PHASE_UNLOADING:
      return ModelPhase::kUnloading;
    case v1::MODEL_PHASE_FAILED:
      return ModelPhase::kFailed;
    default:
      return std::nullopt;
  }
}

absl::Status FailureOf(const v1::ModelState& state) {
  const bool known = state.code() > 0 && state.code() <= 16;
  return {known ? static_cast<absl::StatusCode>(state.code()) : absl::StatusCode::kUnknown,
          state.error().substr(0, kErrorBytesMax)};
}

}  // namespace

WorkerInfo InfoOf(const v1::Hello& hello) {
  WorkerInfo info;
  info.key = {hello.worker_id(), absl::BytesToHexString(hello.incarnation())};
  info.build = hello.build().substr(0, kBuildBytesMax);
  for (const v1::Device& device : hello.devices()) {
    absl::StrAppend(&info.device, info.device.empty() ? "" : ", ", device.kind(),
                    device.name().empty() ? "" : " ", device.name());
    if (info.device.size() < kDeviceBytesMax) continue;
    info.device.resize(kDeviceBytesMax);
    break;
  }
  info.labels.insert(hello.labels().begin(), hello.labels().end());
  for (const v1::LoadedModel& model : hello.models()) info.models.push_back(FromMessage(model));
  return info;
}

bool Apply(const v1::Heartbeat& heartbeat, WorkerInfo* info) {
  const WorkerState state = StateOf(heartbeat.state());
  const ModelFigures figures = FiguresOf(heartbeat);
  // The first credit is what makes it take work.
  bool news = state != info->state || (info->figures.credit == 0) != (figures.credit == 0);
  info->state = state;
  info->figures = figures;
  info->saturation = std::min(Sane(heartbeat.saturation()), 1.0F);
  info->free_memory_bytes = std::max<int64_t>(0, heartbeat.free_memory_bytes());
  for (ServedModel& model : info->models) {
    const auto of = std::find_if(heartbeat.models().begin(), heartbeat.models().end(),
                                 [&](const auto& m) { return m.model() == model.name; });
    const int64_t credit = info->FiguresOf(model).credit;
    model.figures.reset();
    if (of != heartbeat.models().end()) model.figures = FiguresOf(*of);
    news = news || (credit == 0) != (info->FiguresOf(model).credit == 0);
  }
  return news;
}

absl::Status Apply(const v1::ModelState& state, WorkerInfo* info) {
  RETURN_IF_ERROR(CheckModelName(state.model()));
  std::vector<ServedModel>& models = info->models;
  auto it = std::find_if(models.begin(), models.end(),
                         [&](const ServedModel& model) { return model.name == state.model(); });
  if (state.phase() == v1::MODEL_PHASE_GONE) {
    if (it != models.end()) models.erase(it);
    return absl::OkStatus();
  }
  const std::optional<ModelPhase> phase = PhaseOf(state.phase());
  if (!phase) return absl::OkStatus();
  if (it == models.end()) {
    if (models.size() >= kWorkerModelsMax) {
      return absl::InvalidArgumentError("a worker with too many models");
    }
    it = models.emplace(models.end());
    it->name = state.model();
  }
  if (state.has_loaded()) {
    if (state.loaded().name() != state.model()) {
      return absl::InvalidArgumentError("a model's state under another's name");
    }
    RETURN_IF_ERROR(CheckModel(state.loaded()));
    const std::optional<ModelFigures> figures = it->figures;
    *it = FromMessage(state.loaded());
    it->figures = figures;
  }
  it->phase = *phase;
  it->failure = *phase == ModelPhase::kFailed ? FailureOf(state) : absl::OkStatus();
  it->failures = *phase == ModelPhase::kFailed ? state.failures() : 0;
  it->bytes_done = std::max<int64_t>(0, state.bytes_done());
  it->bytes_total = std::max<int64_t>(0, state.bytes_total());
  if (state.memory_bytes() > 0) it->memory_bytes = state.memory_bytes();
  return absl::OkStatus();
}

}  // namespace fathom::master
