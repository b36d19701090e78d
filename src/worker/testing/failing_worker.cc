// fathom-worker on a device that fails on purpose: `failing_worker HOW[:STEP] FLAGS...`
//
//   lost:STEP   that step and all later ones end with an error, as after a GPU's Xid
//   hangs:STEP  that step never ends, and nobody can leave the device
//               (steps count from 1 with the first after the worker's own; the last of those is 0)
//   poison:TOKEN  the process faults in the step that computes this token
//   idle        it is lost a while after the start, before anyone asks for a step
//   loads       never stops loading

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "worker/loaded_engine.h"
#include "worker/run.h"

namespace fathom::worker {
namespace {

[[noreturn]] void Hang() {
  while (true) pause();
}

// Does what another executor does.
class PassingExecutor : public Executor {
 public:
  explicit PassingExecutor(std::unique_ptr<Executor> executor) : executor_(std::move(executor)) {}

  void LaunchForward(const ForwardInput& input) override { executor_->LaunchForward(input); }
  void LaunchSample(uint64_t step, const SampleInput& input) override {
    executor_->LaunchSample(step, input);
  }
  absl::StatusOr<const SampleOutput*> Await(uint64_t step) override {
    return executor_->Await(step);
  }

 private:
  const std::unique_ptr<Executor> executor_;
};

class FailingExecutor final : public PassingExecutor {
 public:
  FailingExecutor(std::unique_ptr<Executor> executor, bool hangs, int64_t first_bad)
      : PassingExecutor(std::move(executor)),
        hangs_(hangs),
        first_bad_(static_cast<uint64_t>(first_bad + LoadedEngine::kWarmUpTokens)) {}
  ~FailingExecutor() override {
    if (hangs_) Hang();
  }

  absl::StatusOr<const SampleOutput*> Await(uint64_t step) override {
    if (step < first_bad_) return PassingExecutor::Await(step);
    if (hangs_) Hang();
    return absl::InternalError("the device fell off the bus");
  }

 private:
  const bool hangs_;
  const uint64_t first_bad_;
};

class PoisonedExecutor final : public PassingExecutor {
 public:
  PoisonedExecutor(std::unique_ptr<Executor> executor, TokenId poison)
      : PassingExecutor(std::move(executor)), poison_(poison) {}

  void LaunchForward(const ForwardInput& input) override {
    const auto& ids = input.token_ids;
    if (std::find(ids.begin(), ids.end(), poison_) != ids.end()) std::abort();
    PassingExecutor::LaunchForward(input);
  }

 private:
  const TokenId poison_;
};

class IdlyLostExecutor final : public PassingExecutor {
 public:
  explicit IdlyLostExecutor(std::unique_ptr<Executor> executor)
      : PassingExecutor(std::move(executor)) {}

  void WhenLost(std::function<void(const absl::Status&)> callback) override {
    if (loser_.joinable()) loser_.join();
    if (!callback) return;
    loser_ = std::thread([callback = std::move(callback)] {
      std::this_thread::sleep_for(std::chrono::seconds(1));
      callback(absl::InternalError("the device fell off the bus"));
    });
  }

 private:
  std::thread loser_;
};

int Main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  const size_t colon = how.find(':');
  if (how != "loads" && how != "idle" && colon == std::string::npos) {
    std::fputs("failing_worker: lost:STEP, hangs:STEP, poison:TOKEN, idle or loads comes first\n",
               stderr);
    return 64;
  }
  Device device;
  if (how == "loads") {
    device.load = [](const ModelOptions&) -> absl::StatusOr<std::unique_ptr<Model>> { Hang(); };
  } else {
    const bool hangs = how.substr(0, colon) == "hangs";
    const int64_t first_bad = std::strtoll(how.c_str() + colon + 1, nullptr, 10);
    device.make_executor = [=](std::unique_ptr<Model> model,
                               int32_t max_sequences) -> absl::StatusOr<std::unique_ptr<Executor>> {
      ASSIGN_OR_RETURN(auto executor, MakeModelExecutor(std::move(model), max_sequences));
      if (how == "idle") return std::make_unique<IdlyLostExecutor>(std::move(executor));
      if (how.starts_with("poison:")) {
        return std::make_unique<PoisonedExecutor>(std::move(executor),
                                                  static_cast<TokenId>(first_bad));
      }
      return std::make_unique<FailingExecutor>(std::move(executor), hangs, first_bad);
    };
  }
  std::vector<const char*> rest{argv[0]};
  rest.insert(rest.end(), argv + 2, argv + argc);
  return RunWorker(static_cast<int>(rest.size()), rest.data(), device);
}

}  // namespace
}  // namespace fathom::worker

int main(int argc, char** argv) { return fathom::worker::Main(argc, argv); }
