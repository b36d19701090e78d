#include "cli/chaos/disturber.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kLookAgain = absl::Milliseconds(20);
constexpr absl::Duration kSlowRuns = absl::Milliseconds(50);
constexpr absl::Duration kSlowStands = absl::Milliseconds(100);
constexpr double kOneLinkShare = 1.0 / 3;
constexpr double kBreakShare = 0.5;
constexpr Relay::Direction kDirections[] = {Relay::Direction::kBoth, Relay::Direction::kToTarget,
                                            Relay::Direction::kFromTarget};
// In the order of the type's values.
constexpr const char* kDirectionNames[] = {"both ways", "to the master", "to the worker"};

}  // namespace

Disturber::Disturber(DisturberOptions options, LocalCluster& cluster, ClusterView& view,
                     Relay& relay, PacketCuts* packet_cuts, Postgresql* database, Journal& journal,
                     const Clock& clock, Random& random, int64_t start_ns)
    : options_(std::move(options)),
      cluster_(cluster),
      view_(view),
      relay_(relay),
      packet_cuts_(packet_cuts),
      database_(database),
      journal_(journal),
      clock_(clock),
      random_(random),
      start_ns_(start_ns),
      next_(clock.Monotonic() + options_.warm_up) {}

absl::Status Disturber::Tick() {
  for (auto fault = running_.begin(); fault != running_.end();) {
    if (Go(*fault)) {
      journal_.Add(HealedRecord(fault->number, NowMs()));
      fault = running_.erase(fault);
    } else {
      ++fault;
    }
  }
  const absl::Duration now = clock_.Monotonic();
  if (healing_ || options_.kinds.empty() || now < next_) return status_;
  // What is late is not made up for.
  next_ = Begin() ? now + absl::Seconds((0.5 + random_.NextUnit()) / options_.per_second)
                  : now + kLookAgain;
  return status_;
}

bool Disturber::Begin() {
  Running fault{.kind = options_.kinds[turn_ % options_.kinds.size()]};
  if (fault.kind == FaultKind::kRolling) {
    if (!running_.empty()) return false;
    for (int i = 0; i < options_.workers; ++i) fault.next.emplace_back(Role::kWorker, i);
    for (int i = 0; i < options_.masters; ++i) fault.next.emplace_back(Role::kMaster, i);
  } else {
    const bool rolls = std::any_of(running_.begin(), running_.end(), [](const Running& other) {
      return other.kind == FaultKind::kRolling;
    });
    if (rolls) return false;
    const bool away = std::any_of(running_.begin(), running_.end(),
                                  [](const Running& other) { return HitsDatabase(other.kind); });
    if (HitsDatabase(fault.kind) && away) return false;
    if (HitsMaster(fault.kind)) {
      const auto master = PickMaster();
      if (!master) return false;
      fault.master = *master;
    }
    if (HitsWorker(fault.kind)) {
      const auto worker = PickWorker();
      if (!worker) return false;
      fault.worker = *worker;
    }
  }
  if (fault.kind == FaultKind::kCut) {
    fault.direction = kDirections[random_.Next() % std::size(kDirections)];
    if (options_.masters > 1 && random_.NextUnit() < kOneLinkShare) {
      fault.one_link = true;
      fault.master = static_cast<int>(random_.Next() % static_cast<uint64_t>(options_.masters));
    }
  }
  ++turn_;
  fault.until = clock_.Monotonic() + options_.shortest +
                random_.NextUnit() * (options_.longest - options_.shortest);
  // The steps of a rolling restart are faults of their own.
  if (fault.kind != FaultKind::kRolling) Announce(fault);
  Strike(fault);
  running_.push_back(std::move(fault));
  return true;
}

void Disturber::Announce(Running& fault) {
  fault.number = faults_++;
  FaultBegin begin{.number = fault.number,
                   .kind = fault.kind,
                   .worker = fault.worker,
                   .master = fault.one_link ? -1 : fault.master};
  if (fault.kind == FaultKind::kCut) {
    begin.detail = absl::StrCat(kDirectionNames[static_cast<size_t>(fault.direction)],
                                fault.one_link ? absl::StrCat(", master ", fault.master) : "");
  }
  if (fault.worker >= 0) {
    begin.ids =
        view_.RunningOn(LocalCluster::WorkerName(fault.worker), fault.one_link ? fault.master : -1);
  }
  if (HitsDatabase(fault.kind)) begin.ids = view_.RunningOn("");
  journal_.Add(FaultRecord(begin, NowMs()));
}

std::optional<int> Disturber::PickWorker() {
  const std::vector<std::string> ready = view_.ReadyWorkers();
  std::vector<int> candidates;
  for (int i = 0; i < options_.workers; ++i) {
    if (!IsDisturbed(Role::kWorker, i) && cluster_.Pid(Role::kWorker, i) != 0 &&
        std::find(ready.begin(), ready.end(), LocalCluster::WorkerName(i)) != ready.end()) {
      candidates.push_back(i);
    }
  }
  // Half of them must be whole afterwards; one that is not back yet is not.
  const size_t whole = options_.workers == 1 ? 0 : (static_cast<size_t>(options_.workers) + 1) / 2;
  if (candidates.size() < whole + 1) return std::nullopt;
  return candidates[random_.Next() % candidates.size()];
}

std::optional<int> Disturber::PickMaster() {
  for (int i = 0; i < options_.masters; ++i) {
    if (IsDisturbed(Role::kMaster, i)) return std::nullopt;
  }
  const auto master = static_cast<int>(random_.Next() % static_cast<uint64_t>(options_.masters));
  if (cluster_.Pid(Role::kMaster, master) == 0) return std::nullopt;
  return master;
}

void Disturber::Strike(Running& fault) {
  switch (fault.kind) {
    case FaultKind::kKill:
      Restart(fault, Role::kWorker, fault.worker, SIGKILL);
      break;
    case FaultKind::kRestart:
      Restart(fault, Role::kWorker, fault.worker, SIGTERM);
      break;
    case FaultKind::kMasterKill:
      Restart(fault, Role::kMaster, fault.master, SIGKILL);
      break;
    case FaultKind::kMasterRestart:
      Restart(fault, Role::kMaster, fault.master, SIGTERM);
      break;
    case FaultKind::kBoth:
      Restart(fault, Role::kWorker, fault.worker, SIGKILL);
      Restart(fault, Role::kMaster, fault.master, SIGKILL);
      break;
    case FaultKind::kStop:
      cluster_.Signal(Role::kWorker, fault.worker, SIGSTOP);
      break;
    case FaultKind::kMasterStop:
      cluster_.Signal(Role::kMaster, fault.master, SIGSTOP);
      break;
    case FaultKind::kCut:
      status_.Update(CutLinks(fault));
      break;
    case FaultKind::kDatabaseRestart:
      database_->Kill();
      fault.away = true;
      break;
    case FaultKind::kDatabaseStop:
      status_.Update(database_->Stop());
      fault.stopped = true;
      break;
    case FaultKind::kSlow:
    case FaultKind::kRolling:
      break;  // Go does it
  }
}

bool Disturber::Go(Running& fault) {
  const absl::Duration now = clock_.Monotonic();
  const bool time_is_over = healing_ || now >= fault.until;
  switch (fault.kind) {
    case FaultKind::kStop:
    case FaultKind::kMasterStop:
      if (!time_is_over) return false;
      if (fault.kind == FaultKind::kStop) {
        cluster_.Signal(Role::kWorker, fault.worker, SIGCONT);
      } else {
        cluster_.Signal(Role::kMaster, fault.master, SIGCONT);
      }
      return true;
    case FaultKind::kCut:
      if (time_is_over) status_.Update(HealLinks(fault));
      return time_is_over;
    case FaultKind::kSlow:
      if (time_is_over) {
        cluster_.Signal(Role::kWorker, fault.worker, SIGCONT);
        return true;
      }
      if (now >= fault.toggle_at) {
        fault.stopped = !fault.stopped;
        cluster_.Signal(Role::kWorker, fault.worker, fault.stopped ? SIGSTOP : SIGCONT);
        fault.toggle_at = now + (fault.stopped ? kSlowStands : kSlowRuns);
      }
      return false;
    case FaultKind::kRolling:
      return IsBack(fault) && !NextRestart(fault);
    case FaultKind::kDatabaseRestart:
    case FaultKind::kDatabaseStop:
      return GoDatabase(fault);
    default:
      return IsBack(fault);
  }
}

bool Disturber::GoDatabase(Running& fault) {
  const absl::Duration now = clock_.Monotonic();
  if (!healing_ && now < fault.until) return false;
  if (std::exchange(fault.stopped, false)) database_->Continue();
  if (std::exchange(fault.away, false)) status_.Update(database_->StartAgain());
  if (now < fault.look_at) return false;
  fault.look_at = now + kLookAgain;
  const auto ready = database_->IsReady();
  status_.Update(ready.status());
  return ready.value_or(true) && view_.DatabaseIsUp();
}

bool Disturber::NextRestart(Running& fault) {
  if (fault.next.empty() || healing_) return false;
  if (fault.worker >= 0 || fault.master >= 0) journal_.Add(HealedRecord(fault.number, NowMs()));
  const auto [role, index] = fault.next.front();
  fault.next.erase(fault.next.begin());
  fault.worker = role == Role::kWorker ? index : -1;
  fault.master = role == Role::kMaster ? index : -1;
  Announce(fault);
  Restart(fault, role, index, SIGTERM);
  return true;
}

absl::Status Disturber::CutLinks(const Running& fault) {
  for (int m = 0; m < options_.masters; ++m) {
    if (fault.one_link && m != fault.master) continue;
    const int group = LinkGroup(fault.worker, m);
    if (packet_cuts_ == nullptr) {
      relay_.Cut(group, fault.direction);
    } else {
      RETURN_IF_ERROR(packet_cuts_->Cut(group, fault.direction));
    }
  }
  return absl::OkStatus();
}

absl::Status Disturber::HealLinks(const Running& fault) {
  const bool breaks = random_.NextUnit() < kBreakShare;
  for (int m = 0; m < options_.masters; ++m) {
    const int group = LinkGroup(fault.worker, m);
    if (packet_cuts_ != nullptr) RETURN_IF_ERROR(packet_cuts_->Heal(group));
    relay_.Heal(group, breaks);
  }
  return absl::OkStatus();
}

void Disturber::Restart(Running& fault, Role role, int index, int number) {
  (role == Role::kWorker ? fault.worker_before : fault.master_before) = cluster_.Pid(role, index);
  cluster_.ExpectEnd(role, index);
  cluster_.Signal(role, index, number);
  fault.look_at = clock_.Monotonic() + kLookAgain;
}

bool Disturber::IsBack(Running& fault) {
  const absl::Duration now = clock_.Monotonic();
  if (now < fault.look_at) return false;
  fault.look_at = now + kLookAgain;
  const auto runs_anew = [&](Role role, int index, pid_t before) {
    const pid_t pid = cluster_.Pid(role, index);
    return pid != 0 && pid != before;
  };
  if (fault.master >= 0 && (!runs_anew(Role::kMaster, fault.master, fault.master_before) ||
                            !view_.IsReady(fault.master))) {
    return false;
  }
  if (fault.worker < 0) return true;
  if (!runs_anew(Role::kWorker, fault.worker, fault.worker_before)) return false;
  const std::vector<std::string> ready = view_.ReadyWorkers();
  return std::find(ready.begin(), ready.end(), LocalCluster::WorkerName(fault.worker)) !=
         ready.end();
}

bool Disturber::IsDisturbed(Role role, int index) const {
  return std::any_of(running_.begin(), running_.end(), [&](const Running& fault) {
    return role == Role::kWorker ? fault.worker == index : fault.master == index && !fault.one_link;
  });
}

double Disturber::NowMs() const {
  return static_cast<double>(clock_.MonotonicNs() - start_ns_) * 1e-6;
}

}  // namespace fathom::cli
