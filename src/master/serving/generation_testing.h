#pragma once

// For tests of a generation: a serving over a scripted fleet, driven by hand on the test's thread,
// and a sink that remembers. Not part of any binary.

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "master/serving/fake_fleet_testing.h"
#include "master/serving/serving.h"

namespace fathom::master {

namespace asio = boost::asio;

inline const ModelPtr& TinyModel() {
  // Never destroyed: the Rust side needs its thread's storage, which goes before statics do.
  static const ModelPtr& kModel = *new ModelPtr([] {
    const char* root = std::getenv("FATHOM_SOURCE_DIR");
    auto model = LoadServedModel(absl::StrCat(root == nullptr ? "." : root, "/models/tiny"), "tiny",
                                 absl::UnixEpoch());
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  }());
  return kModel;
}

inline std::vector<TokenId> Encode(const std::string& text) {
  auto ids = TinyModel()->tokenizer->Encode(text);
  EXPECT_TRUE(ids.ok());
  return *ids;
}

class RecordingSink final : public GenerationSink {
 public:
  absl::Status OnDelta(GenerationDelta delta) override {
    EXPECT_FALSE(ended) << "a delta after the end";
    if (text.size() <= static_cast<size_t>(delta.choice)) text.resize(delta.choice + 1);
    text[delta.choice] += delta.text;
    deltas.push_back(std::move(delta));
    return refuse;
  }
  void OnEnd(const absl::Status& end, const GenerationUsage& end_usage) override {
    EXPECT_FALSE(ended) << "two ends";
    ended = true;
    status = end;
    usage = end_usage;
  }

  std::vector<GenerationDelta> deltas;
  std::vector<std::string> text;
  absl::Status refuse;
  bool ended = false;
  absl::Status status;
  GenerationUsage usage;
};

inline WorkerLoss Broken() {
  return {LossKind::kBroken, absl::UnavailableError("connection reset")};
}
inline WorkerLoss Crash() {
  return {LossKind::kCrash, absl::UnavailableError("the engine is dead")};
}

// Drives the I/O context by hand on the test's thread, so that the sink needs no lock.
class GenerationTest : public testing::Test {
 protected:
  explicit GenerationTest(bool migration = true, absl::Duration patience = absl::Milliseconds(400))
      : catalog_(Catalog({TinyModel()})),
        serving_({.admission = limits_,
                  .cpu_threads = 1,
                  .cluster_secret = "shared by the cluster's masters",
                  .held_bytes = 100'000,
                  .patience = patience,
                  .migration = migration},
                 &fleet_, &catalog_, Clock::Real(), &random_) {
    fleet_.OnChange([this](FleetNews news) { serving_.OnFleetChange(news); });
    fleet_.SetWorkers({FakeFleet::ReadyWorker("w", *TinyModel())});
  }
  ~GenerationTest() override {
    serving_.Stop();
    fleet_.Forget();
  }

  GenerationRequest Request() {
    GenerationRequest request;
    request.id = serving_.NewId();
    request.model = TinyModel();
    request.tenant = "t";
    request.prompt = TextPrompt{"Compute 1 + 2."};
    request.stop.max_tokens = 64;
    return request;
  }

  void Start(GenerationRequest request) {
    sink_ = std::make_shared<RecordingSink>();
    asio::post(strand_, [this, request = std::move(request)]() mutable {
      generation_ = serving_.Generate(std::move(request), strand_, sink_);
    });
  }

  // Runs the strand until `done`.
  template <typename Done>
  void RunUntil(const Done& done) {
    auto work = asio::make_work_guard(io_);
    while (!done()) io_.run_one_for(std::chrono::milliseconds(20));
  }
  void RunUntilEnd() {
    RunUntil([this] { return sink_->ended; });
    EXPECT_EQ(serving_.num_active(), 0);
  }
  FakeFleet::Sent RunUntilSent(size_t index = 0) {
    RunUntil([&] { return fleet_.num_sent() > index; });
    return fleet_.WaitSent(index);
  }

  AdmissionLimits limits_;
  FakeFleet fleet_;
  LiveCatalog catalog_;
  SeededRandom random_{1};
  asio::io_context io_;
  asio::any_io_executor strand_ = asio::make_strand(io_);
  Serving serving_;
  std::shared_ptr<Generation> generation_;
  std::shared_ptr<RecordingSink> sink_;
};

}  // namespace fathom::master
