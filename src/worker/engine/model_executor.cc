// The real executor: a model and a sampler on one device thread.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "common/fault_stack.h"
#include "common/status_macros.h"
#include "worker/engine/executor.h"
#include "worker/sampling/device_sampler.h"
#include "worker/sampling/sampler.h"

namespace fathom::worker {
namespace {

class ModelExecutor final : public Executor {
 public:
  ModelExecutor(std::unique_ptr<Model> model, int32_t max_sequences,
                std::unique_ptr<DeviceSampler> device_sampler)
      : model_(std::move(model)),
        sampler_(max_sequences, model_->config().vocab_size),
        device_sampler_(std::move(device_sampler)),
        thread_([this] { Run(); }) {}

  ~ModelExecutor() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void LaunchForward(const ForwardInput& input) override { Launch({&input, nullptr, input.step}); }
  void LaunchSample(uint64_t step, const SampleInput& input) override {
    Launch({nullptr, &input, step});
  }

  absl::StatusOr<const SampleOutput*> Await(uint64_t step) override {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return done_ >= step || !status_.ok(); });
      if (!status_.ok()) return status_;
    }
    SampleOutput* output = &outputs_[step % kOutputs];
    if (device_sampler_ != nullptr) {
      const absl::Status collected = device_sampler_->Collect(step, output);
      if (!collected.ok()) {
        const std::lock_guard lock(mutex_);
        if (status_.ok()) status_ = collected;
        return status_;
      }
    }
    return output;
  }

  void WhenLost(std::function<void(const absl::Status&)> callback) override {
    const std::lock_guard lock(callback_mutex_);
    when_lost_ = std::move(callback);
    const absl::Status status = Status();
    if (when_lost_ && !status.ok()) when_lost_(status);
  }

 private:
  // Two steps in flight and the one being read.
  static constexpr size_t kOutputs = DeviceSampler::kSteps;

  // Nothing has come for so long: nothing runs, so there is time to prepare what may.
  static constexpr std::chrono::milliseconds kPause{20};

  struct Command {
    const ForwardInput* forward = nullptr;  // one of the two
    const SampleInput* sample = nullptr;
    uint64_t step = 0;
  };

  void Launch(const Command& command) {
    {
      const std::lock_guard lock(mutex_);
      commands_.push_back(command);
    }
    changed_.notify_all();
  }

  void Run() {
    const FaultStack fault_stack;
    if (kernels::Backend* backend = model_->backend(); backend != nullptr) {
      if (const absl::Status bound = backend->BindThread(); !bound.ok()) Lose(bound);
    }
    bool all_prepared = false;
    while (true) {
      Command command;
      {
        std::unique_lock lock(mutex_);
        const auto wanted = [&] { return stopping_ || !commands_.empty(); };
        if (!all_prepared && !changed_.wait_for(lock, kPause, wanted)) {
          lock.unlock();
          all_prepared = !PrepareStep();
          continue;
        }
        changed_.wait(lock, wanted);
        if (stopping_) return;
        command = commands_.front();
        commands_.pop_front();
        if (!status_.ok()) continue;
      }
      const absl::Status status = Execute(command);
      {
        const std::lock_guard lock(mutex_);
        if (!status.ok()) status_ = status;
        if (status.ok() && command.sample != nullptr) done_ = command.step;
      }
      changed_.notify_all();
    }
  }

  // False: there is none left, or the device is lost.
  bool PrepareStep() {
    const absl::StatusOr<bool> prepared = model_->PrepareStep();
    if (prepared.ok()) return *prepared;
    Lose(prepared.status());
    return false;
  }

  // While no step runs, so that nobody may be waiting for one.
  void Lose(const absl::Status& reason) {
    {
      const std::lock_guard lock(mutex_);
      if (status_.ok()) status_ = reason;
    }
    changed_.notify_all();
    const std::lock_guard lock(callback_mutex_);
    if (when_lost_) when_lost_(reason);
  }

  absl::Status Status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  absl::Status Execute(const Command& command) {
    if (command.forward != nullptr) {
      absl::StatusOr<LogitsView> logits = model_->Forward(*command.forward);
      if (!logits.ok()) return logits.status();
      logits_ = *logits;
      return absl::OkStatus();
    }
    if (device_sampler_ != nullptr) {
      return device_sampler_->Launch(command.step, *command.sample, {logits_.data, logits_.rows},
                                     model_->slot_tokens());
    }
    return sampler_.Run(*command.sample, logits_.data, logits_.rows, model_->slot_tokens(),
                        &outputs_[command.step % kOutputs]);
  }

  const std::unique_ptr<Model> model_;
  Sampler sampler_;                                      // device thread
  const std::unique_ptr<DeviceSampler> device_sampler_;  // instead of it, where the device samples
  LogitsView logits_;                                    // device thread
  SampleOutput outputs_[kOutputs];

  std::mutex mutex_;
  std::condition_variable changed_;
  // State below is protected by mutex_.
  std::deque<Command> commands_;
  uint64_t done_ = 0;
  absl::Status status_;
  bool stopping_ = false;

  std::mutex callback_mutex_;  // held while the callback runs; taken before mutex_
  std::function<void(const absl::Status&)> when_lost_;

  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> MakeModelExecutor(std::unique_ptr<Model> model,
                                                            int32_t max_sequences) {
  std::unique_ptr<DeviceSampler> sampler;
  kernels::Backend* backend = model->backend();
  if (backend != nullptr && backend->queue() != nullptr) {
    ASSIGN_OR_RETURN(sampler, DeviceSampler::Create(backend, max_sequences, model->max_logit_rows(),
                                                    model->config().vocab_size));
  }
  return std::make_unique<ModelExecutor>(std::move(model), max_sequences, std::move(sampler));
}

}  // namespace fathom::worker
