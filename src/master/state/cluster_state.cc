#include "master/state/cluster_state.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "master/state/migrations.h"
#include "master/state/state_metrics.h"

namespace fathom::master {
namespace {

constexpr absl::Duration kPeriod = absl::Seconds(1);
constexpr absl::Duration kFirstAnswer = absl::Seconds(5);
constexpr absl::Duration kRowLimit = absl::Seconds(3);
constexpr double kRateWeight = 0.2;  // of the newest second in what is told
constexpr absl::Duration kGoodbyeLimit = absl::Milliseconds(500);

}  // namespace

absl::StatusOr<std::unique_ptr<ClusterState>> ClusterState::Open(DatabaseUrl url) {
  DatabaseOptions options;
  options.url = std::move(url);
  options.on_connect = [](SqlSession& session) { return Migrate(session, SchemaMigrations()); };
  std::unique_ptr<ClusterState> state(new ClusterState(std::move(options)));
  const absl::Status first =
      state->database_.Run(kFirstAnswer, [](SqlSession&) { return absl::OkStatus(); });
  const bool away = absl::IsUnavailable(first) || absl::IsDeadlineExceeded(first);
  if (!first.ok() && !away) return first;
  return state;
}

ClusterState::~ClusterState() { Leave(); }

void ClusterState::Join(MasterIdentity self, std::function<MasterLoad()> load) {
  {
    const std::lock_guard lock(members_->mutex);
    members_->self = self;
  }
  load_ = std::move(load);
  leadership_ =
      std::make_unique<Leadership>(LeadershipOptions{.holder = self.incarnation}, &database_);
  joined_ = true;
  ticker_ = std::make_unique<Periodic>(
      kPeriod, [this] { Tick(); }, absl::ZeroDuration());
}

void ClusterState::Leave() {
  if (ticker_ == nullptr) return;
  ticker_ = nullptr;
  {
    const std::lock_guard lock(members_->mutex);
    members_->left = true;
  }
  leadership_->Resign();
  database_
      .Run(kGoodbyeLimit,
           [incarnation = members_->self.incarnation](SqlSession& session) {
             return DeleteMasterRow(session, incarnation);
           })
      .IgnoreError();  // the row grows old by itself
}

std::vector<MasterRow> ClusterState::masters() const {
  const std::lock_guard lock(members_->mutex);
  return members_->rows;
}

std::vector<MasterConflict> ClusterState::conflicts() const {
  const std::lock_guard lock(members_->mutex);
  return FindConflicts(members_->self, members_->rows);
}

void ClusterState::TellConflicts(Members& members) {
  std::set<std::string> now;
  int secrets = 0;
  int ids = 0;
  for (const MasterConflict& conflict : FindConflicts(members.self, members.rows)) {
    ++(conflict.kind == ConflictKind::kSecret ? secrets : ids);
    const std::string text = TextOf(conflict);
    now.insert(text);
    if (!members.told.contains(text)) {
      LogError("state", "masters of this database do not fit together",
               {{"error.message", text}, {"labels.incarnation", conflict.incarnation}});
    }
  }
  members.told = std::move(now);
  StateMetrics::Get().secret_conflicts.Set(secrets);
  StateMetrics::Get().id_conflicts.Set(ids);
}

std::vector<std::string> ClusterState::link_addresses() const {
  std::vector<std::string> addresses;
  if (!database_.url().shared()) return addresses;
  const std::lock_guard lock(members_->mutex);
  for (const MasterRow& row : members_->rows) {
    if (!row.identity.link_address.empty()) addresses.push_back(row.identity.link_address);
  }
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  return addresses;
}

std::string ClusterState::incarnation() const {
  const std::lock_guard lock(members_->mutex);
  return members_->self.incarnation;
}

std::string ClusterState::link_address() const {
  if (!database_.url().shared()) return {};
  const std::lock_guard lock(members_->mutex);
  return members_->self.link_address;
}

void ClusterState::Tick() {
  const MasterLoad load = load_();
  const double rate = (load.tokens_total - tokens_before_) / absl::ToDoubleSeconds(kPeriod);
  tokens_before_ = load.tokens_total;
  tokens_per_second_ += kRateWeight * (rate - tokens_per_second_);
  const MasterFigures figures{.queued = load.queued,
                              .in_flight = load.in_flight,
                              .workers = load.workers,
                              .tokens_per_second = tokens_per_second_};
  if (members_->asking.exchange(true)) return;
  database_.Post(
      kRowLimit,
      [members = members_, self = members_->self, figures](SqlSession& session) -> absl::Status {
        RETURN_IF_ERROR(WriteMasterRow(session, self, figures));
        ASSIGN_OR_RETURN(std::vector<MasterRow> rows, ReadMasterRows(session));
        {
          const std::lock_guard lock(members->mutex);
          members->rows = std::move(rows);
          TellConflicts(*members);
          if (!members->left) return absl::OkStatus();
        }
        // Another connection may have deleted the row before this one wrote it.
        return DeleteMasterRow(session, self.incarnation);
      },
      [members = members_](const absl::Status& status) {
        members->asking = false;
        if (!status.ok() && !absl::IsUnavailable(status)) {
          LogWarn("state", "this master could not tell the others how it fares",
                  {{"error.message", std::string(status.message())}});
        }
      });
}

}  // namespace fathom::master
