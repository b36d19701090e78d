#pragma once

// For tests of the link: an engine that does what the test says, a listener that remembers, and
// waiting for what other threads do. Not part of any binary.

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "master/fleet/fleet.h"
#include "worker/link_client.h"

namespace fathom::worker {

// State that threads change and a test waits on.
class Waitable {
 public:
  // False when `condition`, called under the lock, has not become true within a time far beyond
  // what any machine needs. Looks again now and then: not every change of a fleet is announced.
  template <typename Condition>
  bool WaitUntil(Condition condition) {
    std::unique_lock lock(mutex_);
    for (int i = 0; i < 6000; ++i) {
      if (changed_.wait_for(lock, std::chrono::milliseconds(10), condition)) return true;
    }
    return false;
  }

 protected:
  template <typename Change>
  auto With(Change change) {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
    return change();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

inline v1::Hello TestHello(const std::string& id = "w1", char incarnation = 'a') {
  v1::Hello hello;
  hello.set_worker_id(id);
  hello.set_incarnation(std::string(16, incarnation));
  hello.set_build("test");
  v1::LoadedModel* model = hello.add_models();
  model->set_name("tiny");
  model->set_config_digest("c0ffee");
  model->set_tokenizer_digest("beef");
  model->set_context_length(1000);
  model->set_vocab_size(100);
  model->set_kv_tokens(1000);
  return hello;
}

inline v1::LoadedModel TestModel(const std::string& name = "tiny") {
  v1::LoadedModel model = TestHello().models(0);
  model.set_name(name);
  return model;
}

inline v1::ModelState TestState(const std::string& name, v1::ModelPhase phase) {
  v1::ModelState state;
  state.set_model(name);
  state.set_phase(phase);
  return state;
}

// Takes everything on unless told otherwise; puts out what the test says. It is also the worker
// around it, which does what masters order by remembering it.
class ScriptedEngine : public Waitable {
 public:
  struct Cancelled {
    std::string id;
    uint32_t attempt = 0;
    std::vector<int32_t> choices;
  };

  EnginePort Engine() {
    return {
        .submit =
            [this](EngineRequest request) {
              return With([&] {
                if (!refusal.ok()) return refusal;
                submitted.push_back(std::move(request));
                return absl::OkStatus();
              });
            },
        .cancel =
            [this](const std::string& id, uint32_t attempt, std::vector<int32_t> choices) {
              With([&] { cancelled.push_back({id, attempt, std::move(choices)}); });
            },
        .stats = [this] { return With([&] { return stats; }); },
        .cache_changes = [this] { return With([&] { return std::exchange(cache_changes, {}); }); }};
  }
  WorkerPort Port() {
    return {.leave = [this] { With([&] { ++leaves; }); },
            .load = [this](const v1::Load& load) { With([&] { loads.push_back(load); }); },
            .unload = [this](const auto& model) { With([&] { unloads.push_back(model); }); },
            .look =
                [this](int64_t, const auto& in_use) {
                  With([&] {
                    for (auto& [model, used] : looks) used = in_use(model);
                  });
                },
            .free_memory = [this] { return With([&] { return free_memory; }); }};
  }
  // The news of a model that this engine serves from now on.
  ModelNews Ready(const v1::LoadedModel& model = TestModel(), int64_t capacity = 1000) {
    ModelNews news{TestState(model.name(), v1::MODEL_PHASE_READY), Engine(), capacity};
    *news.state.mutable_loaded() = model;
    return news;
  }
  // Starts a worker with that one model.
  absl::Status Serve(LinkClient& client, const v1::LoadedModel& model = TestModel()) {
    client.OnModel(Ready(model));
    return client.Start(Port());
  }

  template <typename Change>
  void Set(Change change) {
    With(change);
  }

  absl::Status refusal;
  int leaves = 0;  // orders to go
  std::vector<v1::Load> loads;
  std::vector<std::string> unloads;
  std::map<std::string, bool> looks;  // whether these models are in use, as the link sees it
  int64_t free_memory = 0;
  EngineStats stats = {.state = EngineState::kReady, .free_blocks = 10, .total_blocks = 10};
  CacheChanges cache_changes;
  std::vector<EngineRequest> submitted;
  std::vector<Cancelled> cancelled;
};

class RecordingListener : public master::SubmissionListener, public Waitable {
 public:
  void OnAccepted(uint32_t attempt) override {
    With([&] { accepted.push_back(attempt); });
  }
  void OnRejected(uint32_t, const absl::Status& status, absl::Duration retry_after) override {
    With([&] {
      rejected.push_back(status);
      this->retry_after = retry_after;
    });
  }
  void OnOutput(master::SubmissionOutput output) override {
    With([&] {
      tokens.insert(tokens.end(), output.tokens.begin(), output.tokens.end());
      if (output.finish != FinishReason::kNone) finishes.push_back(output.finish);
      outputs.push_back(std::move(output));
    });
  }
  void OnWorkerLost(uint32_t attempt, const master::WorkerLoss& loss) override {
    With([&] {
      lost.emplace_back(attempt, loss.reason);
      kinds.push_back(loss.kind);
    });
  }

  std::vector<uint32_t> accepted;
  std::vector<absl::Status> rejected;
  absl::Duration retry_after;
  std::vector<master::SubmissionOutput> outputs;
  std::vector<TokenId> tokens;  // of all outputs
  std::vector<FinishReason> finishes;
  std::vector<std::pair<uint32_t, absl::Status>> lost;
  std::vector<master::LossKind> kinds;  // of these
};

// Follows a fleet's snapshots.
class FleetWatch : public Waitable {
 public:
  explicit FleetWatch(master::Fleet& fleet) : fleet_(fleet) {
    fleet.OnChange([this](master::FleetNews) { With([] {}); });
  }

  // Waits for a worker that `condition(info)` holds for; nothing after the longest wait.
  template <typename Condition>
  std::optional<master::WorkerInfo> WaitForWorker(Condition condition) {
    std::optional<master::WorkerInfo> found;
    WaitUntil([&] {
      for (const master::WorkerInfo& info : fleet_.Snapshot()->workers) {
        if (condition(info)) found = info;
      }
      return found.has_value();
    });
    return found;
  }
  std::optional<master::WorkerInfo> WaitForReady(const std::string& id = "w1") {
    return WaitForWorker([&id](const master::WorkerInfo& info) {
      return info.key.id == id && info.state == master::WorkerState::kReady &&
             info.figures.credit > 0;
    });
  }
  bool WaitForEmpty() {
    return WaitUntil([this] { return fleet_.Snapshot()->workers.empty(); });
  }

 private:
  master::Fleet& fleet_;
};

inline LinkClientOptions TestOptions(const std::vector<int>& ports, v1::Hello hello = TestHello()) {
  LinkClientOptions options;
  for (const int port : ports) options.masters.push_back("127.0.0.1:" + std::to_string(port));
  options.hello = std::move(hello);
  options.insecure = true;
  options.redial_first = absl::Milliseconds(10);
  options.redial_max = absl::Milliseconds(50);
  return options;
}

inline std::unique_ptr<LinkClient> StartClient(LinkClientOptions options, ScriptedEngine& engine) {
  auto client = std::make_unique<LinkClient>(std::move(options));
  const absl::Status status = engine.Serve(*client);
  EXPECT_TRUE(status.ok()) << status;
  return client;
}

inline master::Submission TestSubmission(const std::string& id, uint32_t attempt = 1) {
  master::Submission submission;
  submission.request_id = id;
  submission.attempt = attempt;
  submission.model = "tiny";
  submission.cost = 10;
  submission.prompt = {1, 2, 3};
  submission.choices = {{0, {}}};
  submission.stop.max_tokens = 7;
  return submission;
}

inline SequenceOutput TestOutput(const std::string& id, uint32_t attempt, int32_t first_index,
                                 std::vector<TokenId> tokens,
                                 FinishReason finish = FinishReason::kNone) {
  SequenceOutput output;
  output.request_id = id;
  output.attempt = attempt;
  output.first_index = first_index;
  output.tokens = std::move(tokens);
  output.finish = finish;
  return output;
}

}  // namespace fathom::worker
