// What a routing decision costs a master of a large fleet: names of blocks, the decision itself
// (the look-up in the prefix index and the pick), its bookkeeping, and the fleet's news.
//
//   fathom-routing-bench [WORKERS [COPIES]]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "common/random.h"
#include "master/fleet/registry.h"
#include "master/serving/fleet_router.h"

namespace fathom::master {
namespace {

constexpr int32_t kBlockTokens = 16;
constexpr int32_t kSharedBlocks = 64;  // a system prompt that every worker holds
constexpr int kRounds = 500;
constexpr ModelWanted kModel = {.name = "model"};
constexpr int64_t kCost = 1000;

class Timer {
 public:
  template <typename Act>
  void Time(Act act) {
    const int64_t start_ns = Clock::Real()->MonotonicNs();
    act();
    took_us_.push_back(static_cast<double>(Clock::Real()->MonotonicNs() - start_ns) * 1e-3);
  }
  std::string Report() {
    std::sort(took_us_.begin(), took_us_.end());
    const auto at = [&](double share) {
      return took_us_[static_cast<size_t>(share * static_cast<double>(took_us_.size() - 1))];
    };
    return absl::StrFormat("p50 %8.1f us   p99 %8.1f us   max %8.1f us", at(0.5), at(0.99), at(1));
  }

 private:
  std::vector<double> took_us_;
};

template <typename Message>
class NoSink final : public MessageSink<Message> {
 public:
  bool Send(Message /*message*/) override { return true; }
  void Abort() override {}
};

v1::Hello HelloOf(int worker) {
  v1::Hello hello;
  hello.set_worker_id(absl::StrCat("worker-pool-a-", worker));
  hello.set_incarnation(std::string(16, 'i'));
  (*hello.mutable_labels())["pool"] = "a";
  (*hello.mutable_labels())["zone"] = "zone-1";
  v1::LoadedModel* model = hello.add_models();
  model->set_name("model");
  model->set_config_digest(std::string(64, 'c'));
  model->set_tokenizer_digest(std::string(64, 't'));
  model->set_kv_block_tokens(kBlockTokens);
  model->set_kv_scope(std::string(32, 'k'));
  return hello;
}

v1::Heartbeat Beat(SeededRandom& random) {
  v1::Heartbeat beat;
  beat.set_state(v1::ENGINE_STATE_READY);
  beat.set_credit(1 << 30);
  beat.set_free_blocks(50'000);
  beat.set_total_blocks(60'000);
  beat.set_prefill_tokens_per_second(40'000);
  beat.set_tokens_per_second(3000);
  beat.set_step_time_us(5000);
  beat.set_queued_tokens(static_cast<int64_t>(random.Next() % 20'000));
  return beat;
}

class Bench {
 public:
  Bench(int workers, size_t copies) : copies_(copies) {
    for (int i = 0; i < workers; ++i) {
      sessions_.push_back(std::make_shared<WorkerSession>(
          HelloOf(i), absl::StrCat("s", i), absl::Milliseconds(250), absl::Seconds(1), 0,
          std::make_shared<NoSink<v1::MasterControl>>(), [](FleetNews) {}));
      if (!sessions_.back()->BindData(std::make_shared<NoSink<v1::MasterData>>()) ||
          !registry_.Add(sessions_.back()).ok()) {
        std::abort();
      }
    }
    shared_ = Chain(kSharedBlocks);
  }

  void Run() {
    Fleet();
    Fill();
    for (const int32_t tokens : {1000, 4000, 8000, 32'000, 100'000}) Decide(tokens);
  }

 private:
  // Names that no other chain has.
  std::vector<Hash128> Chain(int32_t blocks) {
    std::vector<Hash128> chain(static_cast<size_t>(blocks));
    for (Hash128& name : chain) name = {random_.Next(), random_.Next()};
    return chain;
  }

  void Fleet() {
    Timer build;
    Timer refresh;
    std::shared_ptr<const FleetSnapshot> snapshot;
    for (int i = 0; i < 50; ++i) {
      now_ns_ += 1'000'000'000;
      for (const auto& session : sessions_) session->OnHeartbeat(Beat(random_), now_ns_);
      clock_.Advance(absl::Seconds(1));
      registry_.Stale();
      build.Time([&] { snapshot = registry_.Snapshot(); });
      refresh.Time([&] { router_.Refresh(snapshot); });
      PromptBlocks none;
      static_cast<void>(router_.Pick(kModel, &none, kCost, now_ns_));
    }
    std::printf("snapshot of %zu workers, built          %s\n", sessions_.size(),
                build.Report().c_str());
    std::printf("  taken in by the router                %s\n", refresh.Report().c_str());
  }

  void Fill() {
    PrefixIndex& index = router_.index();
    const auto workers = static_cast<WorkerSlot>(sessions_.size());
    for (WorkerSlot w = 0; w < workers; ++w) index.Store(w, shared_);
    while (index.num_copies() < copies_) {
      const auto worker = static_cast<WorkerSlot>(random_.Next() % workers);
      index.Store(worker, Chain(200));
    }
    std::printf("index: %zu copies of %zu blocks, %.1f MB, %.1f bytes a copy\n", index.num_copies(),
                index.num_blocks(), static_cast<double>(index.MemoryBytes()) / 1e6,
                static_cast<double>(index.MemoryBytes()) / static_cast<double>(index.num_copies()));
  }

  // A third of the prompt's blocks is the common system prompt where it fits, a third a
  // conversation that one worker holds, the rest is new. All prompts are made before the first is
  // decided on, so that nothing of it is near at hand.
  void Decide(int32_t num_tokens) {
    Timer name;
    Timer look_up;
    Timer pick;
    Timer assign;
    const std::string salt(kCacheSaltBytes, 's');
    const BlockNaming naming{std::string(32, 'k'), kBlockTokens};
    const int rounds = num_tokens > 10'000 ? kRounds / 10 : kRounds;
    std::vector<PromptBlocks> prompts;
    std::deque<std::vector<TokenId>> texts;
    const size_t common =
        std::min<size_t>(static_cast<size_t>(num_tokens / kBlockTokens / 3), kSharedBlocks);
    for (int round = 0; round < rounds; ++round) {
      std::vector<TokenId>& tokens = texts.emplace_back(static_cast<size_t>(num_tokens));
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = i < common * kBlockTokens ? 7 : static_cast<TokenId>(random_.Next() % 100'000);
      }
      PromptBlocks& prompt = prompts.emplace_back(tokens, salt);
      std::span<const Hash128> names;
      name.Time([&] { names = prompt.Names(naming); });
      if (round == 0) {
        for (size_t w = 0; w < sessions_.size(); ++w) {
          router_.index().Store(static_cast<WorkerSlot>(w), names.first(common));
        }
      }
      router_.index().Store(static_cast<WorkerSlot>(random_.Next() % sessions_.size()),
                            names.first(names.size() / 3 * 2));
    }
    std::vector<PrefixMatch> matches;
    for (PromptBlocks& prompt : prompts) {
      const auto names = prompt.Names(naming);
      look_up.Time([&] { router_.index().Match(names, &matches); });
    }
    int64_t cached = 0;
    for (PromptBlocks& prompt : prompts) {
      FleetRouter::Decision decision;
      pick.Time([&] { decision = router_.Pick(kModel, &prompt, kCost, now_ns_); });
      if (decision.obstacle != RouteObstacle::kNone) std::abort();
      cached += decision.cached_tokens;
      assign.Time([&] { router_.Assign(decision, &prompt, kCost, now_ns_); });
      router_.Release(decision, kCost);
      now_ns_ += 10'000'000;
    }
    std::printf("prompt of %6d tokens (%.0f %% cached)\n", num_tokens,
                100.0 * static_cast<double>(cached) / (static_cast<double>(num_tokens) * rounds));
    std::printf("  naming its blocks                     %s\n", name.Report().c_str());
    std::printf("  decision                              %s\n", pick.Report().c_str());
    std::printf("    of it the index's look-up           %s\n", look_up.Report().c_str());
    std::printf("  bookkeeping                           %s\n", assign.Report().c_str());
  }

  const size_t copies_;
  SeededRandom random_{1};
  FakeClock clock_;
  Registry registry_{&clock_};
  std::vector<std::shared_ptr<WorkerSession>> sessions_;
  FleetRouter router_{1};
  std::vector<Hash128> shared_;
  int64_t now_ns_ = 0;
};

}  // namespace
}  // namespace fathom::master

int main(int argc, char** argv) {
  const int workers = argc > 1 ? std::atoi(argv[1]) : 1000;
  const int copies = argc > 2 ? std::atoi(argv[2]) : 1'000'000;
  if (workers < 1 || workers > 4096 || copies < 1 || argc > 3) {
    std::fprintf(stderr, "usage: fathom-routing-bench [WORKERS [COPIES]]\n");
    return 2;
  }
  fathom::master::Bench(workers, static_cast<size_t>(copies)).Run();
  return 0;
}
