#pragma once

// An Engine as the host of models wants it: what it puts out goes to the link, but for what it says
// of its first request, which is the worker's own and shows that it runs at all. Thread safety: as
// Engine's; WarmUp once, before any other request.

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/engine/engine.h"
#include "worker/model_host.h"

namespace fathom::worker {

class LoadedEngine final : public ServingEngine {
 public:
  // Output tokens of the first request, and as many steps.
  static constexpr int32_t kWarmUpTokens = 4;
  // More than the deadline of a first step, so that a device that hangs is told as such.
  static constexpr absl::Duration kWarmUpMax = absl::Seconds(120);

  // `salt` keeps the first request's KV from everybody else's. `sink` and `clock` outlive this.
  static absl::StatusOr<std::shared_ptr<LoadedEngine>> Create(
      EngineOptions options, std::unique_ptr<Executor> executor,
      std::shared_ptr<const GrammarFactory> grammars, std::string salt, OutputSink* sink,
      const Clock* clock);
  ~LoadedEngine() override = default;

  absl::Status WarmUp() override;
  absl::Status Submit(EngineRequest request) override {
    return engine_->Submit(std::move(request));
  }
  void Cancel(const std::string& id, uint32_t attempt, std::vector<int32_t> choices) override {
    engine_->Cancel(id, attempt, std::move(choices));
  }
  void Stop() override { engine_->Stop(); }
  EngineStats Stats() const override { return engine_->Stats(); }
  CacheChanges TakeCacheChanges() override { return engine_->TakeCacheChanges(); }
  absl::Status Health() const override { return engine_->Health(); }

 private:
  // Keeps the first request's outputs from the link.
  class Outlet final : public OutputSink {
   public:
    explicit Outlet(OutputSink* sink) : sink_(sink) {}
    void OnStep(std::vector<SequenceOutput> outputs) override;
    void OnDead(const absl::Status& reason) override;
    // How the first request ended; DEADLINE_EXCEEDED when it has not by then. What comes later is
    // for the link.
    absl::Status AwaitFirst(absl::Duration limit);

   private:
    OutputSink* const sink_;
    std::mutex mutex_;
    std::condition_variable changed_;
    // State below is protected by mutex_.
    bool open_ = false;
    std::optional<absl::Status> first_;
  };

  LoadedEngine(int32_t vocab_size, int32_t max_context, std::string salt, OutputSink* sink)
      : vocab_size_(vocab_size), max_context_(max_context), salt_(std::move(salt)), outlet_(sink) {}

  const int32_t vocab_size_;
  const int32_t max_context_;
  const std::string salt_;
  Outlet outlet_;
  std::unique_ptr<Engine> engine_;  // goes first: it puts out into outlet_
};

}  // namespace fathom::worker
