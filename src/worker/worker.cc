#include "worker/worker.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/version.h"

namespace fathom::worker {
namespace {

constexpr absl::Duration kDrainPoll = absl::Milliseconds(5);

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

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const config::Worker& config,
                                                      const Clock* clock, Random* random,
                                                      const Device& device) {
  std::unique_ptr<Worker> worker(new Worker(clock, random));
  RETURN_IF_ERROR(worker->StartHealth(config));
  const absl::Status loaded = worker->StartModels(config, device);
  // What hangs in the device cannot be waited for: the process is to end without it.
  if (absl::IsDeadlineExceeded(loaded)) static_cast<void>(worker.release());
  RETURN_IF_ERROR(loaded);
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

absl::Status Worker::StartModels(const config::Worker& config, const Device& device) {
  LinkClientOptions options;
  options.masters.assign(config.masters().begin(), config.masters().end());
  options.hello = HelloOf(config, *random_);
  ASSIGN_OR_RETURN(const auto facts, DescribeDevice(config, device, /*trim=*/false));
  if (facts) {
    v1::Device* described = options.hello.mutable_devices(0);
    described->set_name(facts->name);
    described->set_memory_bytes(facts->total_bytes);
    gpu_ = std::make_unique<GpuMonitor>(facts->pci_bus_id);
  }
  options.tls = {.ca = config.link_tls().ca(),
                 .certificate = config.link_tls().certificate(),
                 .key = config.link_tls().key()};
  options.insecure = config.insecure_link();
  options.clock = clock_;
  options.random = random_;
  link_ = std::make_unique<LinkClient>(std::move(options));
  loading_ = std::make_unique<ModelLoading>(config, device, random_, clock_, link_.get());
  host_ = std::make_unique<ModelHost>(ModelHost::Options{
      .load = [this](
                  const LoadOrder& order,
                  const ModelHost::Progress& progress) { return loading_->Load(order, progress); },
      .tell = [this](ModelNews news) { link_->OnModel(std::move(news)); },
      .free_memory = [this](bool released) { return loading_->FreeMemory(released); },
      .clock = clock_});
  if (config.model_path().empty()) return absl::OkStatus();
  return host_->LoadAndWait({.model = config.model_name(),
                             .path = config.model_path(),
                             .kv_cache_bytes = config.kv_cache_bytes(),
                             .config_digest = "",
                             .tokenizer_digest = "",
                             .dummy_shape = config.dummy_weights()});
}

absl::Status Worker::StartLink() {
  return link_->Start(
      {.leave = [this] { leave_asked_ = true; },
       .load =
           [this](const v1::Load& load) {
             host_->Load({.model = load.model(),
                          .path = load.snapshot(),
                          .kv_cache_bytes = load.kv_cache_bytes(),
                          .config_digest = load.config_digest(),
                          .tokenizer_digest = load.tokenizer_digest(),
                          .dummy_shape = ""});
           },
       .unload = [this](const std::string& model) { host_->Unload(model); },
       .look = [this](int64_t now_ns, const auto& in_use) { host_->Look(now_ns, in_use); },
       .free_memory = [this] { return host_->free_memory(); }});
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  health_.reset();
  if (host_ != nullptr) host_->Stop();
  if (link_ != nullptr) link_->Stop();
}

absl::Status Worker::Ready() const {
  if (!started_) return absl::UnavailableError("the model is being loaded");
  if (draining_) return absl::UnavailableError("the worker is leaving");
  RETURN_IF_ERROR(Health());
  if (link_->linked() == 0) return absl::UnavailableError("no master is linked");
  return absl::OkStatus();
}

absl::Status Worker::Health() const { return host_->Health(); }

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
  if (!started_) return;
  metrics_.Refresh(host_->Totals(), host_->CountPhases(), link_->linked(), link_->unfinished());
}

}  // namespace fathom::worker
