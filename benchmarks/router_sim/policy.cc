#include "benchmarks/router_sim/policy.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/strings.h"

namespace fathom::router_sim {
namespace {

using master::PrefixIndex;
using master::PrefixMatch;
using master::PromptBlocks;
using master::WorkerSlot;

class Router final : public Policy {
 public:
  Router(std::string model, uint64_t seed) : model_(std::move(model)), router_(seed) {}

  Pick Send(PromptBlocks* prompt, int64_t cost, int64_t now_ns) override {
    const master::ModelWanted wanted{.name = model_};
    const auto decision = router_.Pick(wanted, prompt, cost, now_ns);
    FATHOM_CHECK(decision.obstacle == master::RouteObstacle::kNone, "no worker is free");
    router_.Assign(decision, prompt, cost, now_ns);
    return {std::stoul(router_.KeyOf(decision.slot).id), decision.cached_tokens};
  }
  void OnEnd(size_t worker, int64_t cost) override {
    router_.Release({.slot = SlotOf(worker), .model = 0}, cost);  // the only one
  }
  void OnHeartbeat(const std::shared_ptr<const master::FleetSnapshot>& fleet) override {
    router_.Refresh(fleet);
  }
  void OnCacheChanges(size_t worker, const std::vector<Hash128>& stored,
                      const std::vector<Hash128>& evicted) override {
    router_.index().Evict(SlotOf(worker), evicted);
    router_.index().Store(SlotOf(worker), stored);
  }

 private:
  WorkerSlot SlotOf(size_t worker) const {
    return router_.SlotOf({absl::StrCat(worker), "1"}).value();
  }

  const std::string model_;
  master::FleetRouter router_;
};

// Counts what each worker has in flight.
class Counting : public Policy {
 public:
  explicit Counting(size_t num_workers) : in_flight_(num_workers) {}

  Pick Send(PromptBlocks* prompt, int64_t cost, int64_t now_ns) final {
    const Pick pick = Choose(prompt, now_ns);
    in_flight_[pick.worker] += cost;
    return pick;
  }
  void OnEnd(size_t worker, int64_t cost) final { in_flight_[worker] -= cost; }

 protected:
  virtual Pick Choose(PromptBlocks* prompt, int64_t now_ns) = 0;
  size_t LeastLoaded() const {
    return static_cast<size_t>(std::min_element(in_flight_.begin(), in_flight_.end()) -
                               in_flight_.begin());
  }

  std::vector<int64_t> in_flight_;  // tokens
};

class RoundRobin final : public Counting {
 public:
  using Counting::Counting;

 private:
  Pick Choose(PromptBlocks* /*prompt*/, int64_t /*now_ns*/) override {
    return {next_++ % in_flight_.size()};
  }
  size_t next_ = 0;
};

class LeastLoad final : public Counting {
 public:
  using Counting::Counting;

 private:
  Pick Choose(PromptBlocks* /*prompt*/, int64_t /*now_ns*/) override { return {LeastLoaded()}; }
};

class PowerOfTwo final : public Counting {
 public:
  PowerOfTwo(size_t num_workers, uint64_t seed) : Counting(num_workers), random_(seed) {}

 private:
  Pick Choose(PromptBlocks* /*prompt*/, int64_t /*now_ns*/) override {
    const size_t a = random_.Next() % in_flight_.size();
    const size_t b = random_.Next() % in_flight_.size();
    return {in_flight_[a] <= in_flight_[b] ? a : b};
  }
  SeededRandom random_;
};

// The longest prefix, whatever the load; among equals the least loaded. With `mindful`: only where
// the prefix is half of the prompt and the worker has no more than twice the mean load, else the
// least loaded worker.
class PrefixAffinity final : public Counting {
 public:
  PrefixAffinity(size_t num_workers, master::BlockNaming naming, bool mindful)
      : Counting(num_workers), naming_(std::move(naming)), mindful_(mindful) {}

  void OnCacheChanges(size_t worker, const std::vector<Hash128>& stored,
                      const std::vector<Hash128>& evicted) override {
    index_.Evict(static_cast<WorkerSlot>(worker), evicted);
    index_.Store(static_cast<WorkerSlot>(worker), stored);
  }

 private:
  Pick Choose(PromptBlocks* prompt, int64_t now_ns) override {
    const auto names = prompt->Names(naming_);
    index_.Match(names, &matches_);
    std::vector<int32_t> blocks(in_flight_.size());
    for (const PrefixMatch& match : matches_) blocks[match.worker] = match.blocks;
    size_t best = 0;
    for (size_t w = 1; w < blocks.size(); ++w) {
      if (std::pair(-blocks[w], in_flight_[w]) < std::pair(-blocks[best], in_flight_[best])) {
        best = w;
      }
    }
    if (mindful_) {
      const int64_t sum = std::accumulate(in_flight_.begin(), in_flight_.end(), int64_t{0});
      const bool long_enough = 2 * blocks[best] * naming_.block_tokens >= prompt->num_tokens();
      const bool overloaded = in_flight_[best] * static_cast<int64_t>(blocks.size()) > 2 * sum;
      if (!long_enough || overloaded) best = LeastLoaded();
    }
    index_.Expect(static_cast<WorkerSlot>(best), names, now_ns);
    return {best, std::min(blocks[best] * naming_.block_tokens, prompt->num_tokens() - 1)};
  }

  const master::BlockNaming naming_;
  const bool mindful_;
  PrefixIndex index_;
  std::vector<PrefixMatch> matches_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(std::string_view name, size_t num_workers,
                                                   const master::BlockNaming& naming,
                                                   std::string model, uint64_t seed) {
  if (name == "router") return std::make_unique<Router>(std::move(model), seed);
  if (name == "round-robin") return std::make_unique<RoundRobin>(num_workers);
  if (name == "least-load") return std::make_unique<LeastLoad>(num_workers);
  if (name == "power-of-two") return std::make_unique<PowerOfTwo>(num_workers, seed);
  if (name == "prefix-affinity" || name == "affinity-or-load") {
    return std::make_unique<PrefixAffinity>(num_workers, naming, name == "affinity-or-load");
  }
  return absl::InvalidArgumentError(absl::StrCat("no policy '", ToAbsl(name), "'"));
}

}  // namespace fathom::router_sim
