#include "benchmarks/router_sim/simulation.h"

#include <algorithm>
#include <queue>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "benchmarks/router_sim/policy.h"
#include "common/status_macros.h"

namespace fathom::router_sim {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kLinkNs = 500'000;  // from a master's decision to the engine's inbox
constexpr int64_t kHeartbeatNs = 250'000'000;
constexpr int64_t kCacheNewsNs = 25'000'000;
constexpr char kModel[] = "model";

// One cache of all workers, of any size: how much of a prompt has been seen before.
class Oracle {
 public:
  int32_t Cached(std::span<const Hash128> names, int32_t block_tokens, int32_t prompt_tokens) {
    size_t run = 0;
    while (run < names.size() && seen_.contains(names[run].lo)) ++run;
    return std::min(static_cast<int32_t>(run) * block_tokens, prompt_tokens - 1);
  }
  void Add(std::span<const Hash128> names) {
    for (const Hash128& name : names) seen_.insert(name.lo);
  }

 private:
  absl::flat_hash_set<uint64_t> seen_;
};

class Simulation {
 public:
  Simulation(const Trace& trace, const SimulationOptions& options)
      : trace_(trace),
        options_(options),
        salt_(kCacheSaltBytes, 's'),
        naming_{KvScope(kModel, "BF16"), options.shape.block_tokens} {}

  absl::StatusOr<SimulationResult> Run(std::string_view policy) {
    ASSIGN_OR_RETURN(policy_,
                     MakePolicy(policy, options_.num_workers, naming_, kModel, options_.seed));
    for (size_t w = 0; w < options_.num_workers; ++w) {
      workers_.push_back(std::make_unique<Worker>(options_.shape, naming_.kv_scope, salt_));
      infos_.push_back(InfoOf(w));
      const auto stagger =
          static_cast<int64_t>(w) * kHeartbeatNs / static_cast<int64_t>(options_.num_workers);
      Push(stagger, Kind::kHeartbeat, w);
      Push(stagger % kCacheNewsNs, Kind::kCacheNews, w);
    }
    ShowFleet();
    for (const Session& session : trace_.sessions) {
      progress_.push_back({.context = session.context});
      Push(static_cast<int64_t>(session.start_s * kSecondNs), Kind::kSession, progress_.size() - 1);
      ++open_sessions_;
    }
    // A policy that does not keep up might take for ever.
    const auto give_up_ns = static_cast<int64_t>(2 * options_.end_s * kSecondNs);
    while (open_sessions_ > 0 && now_ns_ < give_up_ns) {
      const Event event = events_.top();
      events_.pop();
      now_ns_ = event.at_ns;
      Handle(event);
    }
    return Sum();
  }

 private:
  enum class Kind { kSession, kArrival, kStepEnd, kHeartbeat, kCacheNews };
  struct Event {
    int64_t at_ns = 0;
    uint64_t order = 0;
    Kind kind = Kind::kSession;
    uint64_t index = 0;
    bool operator>(const Event& other) const {
      return std::pair(at_ns, order) > std::pair(other.at_ns, other.order);
    }
  };
  struct Worker {
    Worker(const EngineShape& shape, const std::string& kv_scope, const std::string& salt)
        : engine(shape, kv_scope, salt) {}
    SimEngine engine;
    worker::CacheNews news;
  };
  struct Progress {
    std::vector<Segment> context;
    size_t step = 0;
    size_t open_branches = 0;
  };
  struct Request {
    size_t session = 0;
    size_t worker = 0;
    int64_t cost = 0;
    int64_t sent_ns = 0;
    int64_t first_token_ns = 0;
    EngineWork work;
    std::vector<TokenId> all;  // prompt and output, for the oracle
    bool measured = false;
    int32_t predicted = 0;
    int32_t best = 0;
    int32_t prompt_tokens = 0;
  };

  void Push(int64_t at_ns, Kind kind, uint64_t index) {
    events_.push({at_ns, ++order_, kind, index});
  }

  void Handle(const Event& event) {
    switch (event.kind) {
      case Kind::kSession:
        return SendStep(event.index);
      case Kind::kArrival:
        return Arrive(event.index);
      case Kind::kStepEnd:
        return EndStep(event.index);
      case Kind::kHeartbeat:
        workers_[event.index]->engine.Tell(now_ns_, &infos_[event.index]);
        ShowFleet();
        return Push(now_ns_ + kHeartbeatNs, Kind::kHeartbeat, event.index);
      case Kind::kCacheNews: {
        const worker::CacheChanges changes = workers_[event.index]->news.Take();
        if (!changes.empty()) {
          policy_->OnCacheChanges(event.index, changes.stored, changes.evicted);
        }
        return Push(now_ns_ + kCacheNewsNs, Kind::kCacheNews, event.index);
      }
    }
  }

  master::WorkerInfo InfoOf(size_t worker) const {
    master::WorkerInfo info{.key = {absl::StrCat(worker), "1"},
                            .state = master::WorkerState::kReady,
                            .figures = {.credit = int64_t{1} << 40}};
    info.models.push_back({.name = kModel,
                           .kv_block_tokens = naming_.block_tokens,
                           .max_sequences = options_.shape.max_sequences,
                           .kv_scope = naming_.kv_scope});
    return info;
  }

  void ShowFleet() {
    auto fleet = std::make_shared<master::FleetSnapshot>();
    fleet->version = ++fleet_version_;
    fleet->workers = infos_;
    policy_->OnHeartbeat(fleet);
  }

  void SendStep(size_t session) {
    Progress& progress = progress_[session];
    const Step& step = trace_.sessions[session].steps[progress.step];
    progress.open_branches = step.branches.size();
    for (const Branch& branch : step.branches) Send(session, branch);
  }

  void Send(size_t session, const Branch& branch) {
    Request request{.session = session, .sent_ns = now_ns_};
    std::vector<TokenId>& prompt = request.work.prompt;
    for (const Segment& segment : progress_[session].context) AppendTokens(segment, &prompt);
    for (const Segment& segment : branch.extra) AppendTokens(segment, &prompt);
    AppendTokens(branch.output, &request.work.output);
    request.all = prompt;
    request.all.insert(request.all.end(), request.work.output.begin(), request.work.output.end());
    request.prompt_tokens = static_cast<int32_t>(prompt.size());
    request.cost = static_cast<int64_t>(request.all.size());
    request.work.id = ++last_id_;
    request.measured =
        now_ns_ >= options_.warm_up_s * kSecondNs && now_ns_ < options_.end_s * kSecondNs;

    master::PromptBlocks blocks(prompt, salt_);
    const auto names = blocks.Names(naming_);
    request.best = oracle_.Cached(names, naming_.block_tokens, request.prompt_tokens);
    oracle_.Add(names);
    const Pick pick = policy_->Send(&blocks, request.cost, now_ns_);
    request.worker = pick.worker;
    request.predicted = pick.predicted_tokens;
    requests_.emplace(last_id_, std::move(request));
    Push(now_ns_ + kLinkNs, Kind::kArrival, last_id_);
  }

  void Arrive(uint64_t id) {
    Request& request = requests_.at(id);
    workers_[request.worker]->engine.Submit(std::move(request.work));
    if (!workers_[request.worker]->engine.busy()) BeginStep(request.worker);
  }

  void BeginStep(size_t w) {
    Worker& worker = *workers_[w];
    if (const auto end_ns = worker.engine.Begin(now_ns_)) Push(*end_ns, Kind::kStepEnd, w);
    worker.news.Add(worker.engine.TakeCacheChanges());
  }

  void EndStep(size_t w) {
    for (const EngineEvent& event : workers_[w]->engine.Finish(now_ns_)) {
      if (event.first_token) NoteFirstToken(requests_.at(event.id), event.cached_tokens);
      if (event.ended) End(event.id);
    }
    BeginStep(w);
  }

  void NoteFirstToken(Request& request, int32_t cached_tokens) {
    request.first_token_ns = now_ns_;
    if (!request.measured) return;
    ttft_s_.push_back(static_cast<double>(now_ns_ - request.sent_ns) * 1e-9);
    ++result_.requests;
    result_.prompt_tokens += request.prompt_tokens;
    result_.cached_tokens += cached_tokens;
    result_.best_tokens += request.best;
    result_.predicted_tokens += request.predicted;
  }

  void End(uint64_t id) {
    const Request request = std::move(requests_.at(id));
    requests_.erase(id);
    policy_->OnEnd(request.worker, request.cost);
    const auto output_tokens = static_cast<double>(request.cost - request.prompt_tokens);
    if (request.measured && output_tokens > 1) {
      tpot_s_ += static_cast<double>(now_ns_ - request.first_token_ns) * 1e-9 / (output_tokens - 1);
      ++ended_;
    }
    master::PromptBlocks blocks(std::span(request.all).first(request.all.size() - 1), salt_);
    oracle_.Add(blocks.Names(naming_));

    Progress& progress = progress_[request.session];
    if (--progress.open_branches > 0) return;
    const Session& session = trace_.sessions[request.session];
    const std::vector<Segment>& carry = session.steps[progress.step].carry;
    progress.context.insert(progress.context.end(), carry.begin(), carry.end());
    if (++progress.step == session.steps.size() || now_ns_ > options_.end_s * kSecondNs) {
      --open_sessions_;
      return;
    }
    Push(now_ns_ + static_cast<int64_t>(session.steps[progress.step].wait_s * kSecondNs),
         Kind::kSession, request.session);
  }

  SimulationResult Sum() {
    for (auto& [id, request] : requests_) {
      // It has waited for that long at least.
      if (request.first_token_ns == 0) NoteFirstToken(request, 0);
    }
    std::sort(ttft_s_.begin(), ttft_s_.end());
    const auto at = [this](double share) {
      return ttft_s_.empty()
                 ? 0.0
                 : ttft_s_[static_cast<size_t>(share * static_cast<double>(ttft_s_.size() - 1))];
    };
    result_.ttft_p50_s = at(0.5);
    result_.ttft_p99_s = at(0.99);
    for (const double s : ttft_s_) result_.ttft_mean_s += s / static_cast<double>(ttft_s_.size());
    result_.tpot_mean_s = tpot_s_ / static_cast<double>(std::max<int64_t>(ended_, 1));
    double most = 0;
    double sum = 0;
    for (const auto& worker : workers_) {
      const auto computed = static_cast<double>(worker->engine.computed_tokens());
      most = std::max(most, computed);
      sum += computed;
      result_.utilization += static_cast<double>(worker->engine.busy_ns()) /
                             static_cast<double>(now_ns_) / static_cast<double>(workers_.size());
    }
    result_.imbalance = sum == 0 ? 1 : most * static_cast<double>(workers_.size()) / sum;
    return result_;
  }

  const Trace& trace_;
  const SimulationOptions options_;
  const std::string salt_;
  const master::BlockNaming naming_;
  std::unique_ptr<Policy> policy_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<master::WorkerInfo> infos_;
  std::vector<Progress> progress_;  // by session
  absl::flat_hash_map<uint64_t, Request> requests_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  Oracle oracle_;
  std::vector<double> ttft_s_;
  double tpot_s_ = 0;  // sum
  int64_t ended_ = 0;
  SimulationResult result_;
  int64_t now_ns_ = 0;
  uint64_t order_ = 0;
  uint64_t last_id_ = 0;
  uint64_t fleet_version_ = 0;
  size_t open_sessions_ = 0;
};

}  // namespace

absl::StatusOr<SimulationResult> Simulate(const Trace& trace, std::string_view policy,
                                          const SimulationOptions& options) {
  return Simulation(trace, options).Run(policy);
}

}  // namespace fathom::router_sim
