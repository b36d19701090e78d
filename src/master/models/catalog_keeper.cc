#include "master/models/catalog_keeper.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr std::chrono::seconds kPeriod(1);
constexpr absl::Duration kReadLimit = absl::Seconds(3);
constexpr absl::Duration kChangeLimit = absl::Seconds(5);
constexpr int64_t kRetryNs = 5'000'000'000;

}  // namespace

absl::StatusOr<ModelPtr> LoadVersion(const ModelVersionRow& row) {
  return LoadServedModel(row.path, ModelNameOf(row.name, row.version),
                         absl::FromUnixSeconds(row.created_s),
                         {.reasoning = row.reasoning_parser, .tools = row.tool_parser}, row.pool);
}

CatalogKeeper::CatalogKeeper(std::vector<ModelPtr> configured, Database* database,
                             LiveCatalog* live, const Clock* clock)
    : configured_(std::move(configured)), database_(database), live_(live), clock_(clock) {
  thread_ = std::thread([this] { Run(); });
}

CatalogKeeper::~CatalogKeeper() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::shared_ptr<const CatalogRows> CatalogKeeper::rows() const {
  const std::lock_guard lock(mutex_);
  return rows_;
}

Database::Job CatalogKeeper::JobOf(Change change) const {
  std::vector<std::string> names;
  for (const ModelPtr& model : configured_) names.push_back(model->name);
  return [names = std::move(names), change = std::move(change)](SqlSession& session) {
    CatalogChanges changes(&session, names);
    return change(changes);
  };
}

void CatalogKeeper::Post(Change change, std::function<void(const absl::Status&)> done) {
  database_->Post(kChangeLimit, JobOf(std::move(change)),
                  [this, done = std::move(done)](const absl::Status& status) {
                    Hurry();
                    done(status);
                  });
}

absl::Status CatalogKeeper::Make(const Change& change) {
  absl::Status status = database_->Run(kChangeLimit, JobOf(change));
  Hurry();
  return status;
}

void CatalogKeeper::Hurry() {
  {
    const std::lock_guard lock(mutex_);
    hurry_ = true;
  }
  wake_.notify_all();
}

void CatalogKeeper::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    hurry_ = false;
    lock.unlock();
    Look();
    lock.lock();
    wake_.wait_for(lock, kPeriod, [this] { return stopping_ || hurry_; });
  }
}

void CatalogKeeper::Look() {
  const std::shared_ptr<const CatalogRows> known = rows();
  auto read = std::make_shared<CatalogRows>();
  bool news = false;
  // What the job writes to must outlive it: Run waits for it, whatever comes.
  const absl::Status status = database_->Run(kReadLimit, [&](SqlSession& session) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t revision, CatalogRevision(session));
    news = known == nullptr || revision != known->revision;
    if (!news) return absl::OkStatus();
    // All of one moment, so that no route comes without its models.
    ASSIGN_OR_RETURN(SqlTransaction transaction, SqlTransaction::Begin(session));
    ASSIGN_OR_RETURN(*read, ReadCatalogRows(session));
    return transaction.Commit();
  });
  if (!status.ok()) {
    if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) {
      LogWarn("models", "the model catalogue cannot be read",
              {{"error.message", std::string(Message(status))}});
    }
    return;
  }
  const std::shared_ptr<const CatalogRows> now = news ? read : known;
  const bool changed = TakeIn(*now);
  if (news || changed) Publish(*now);
  const std::lock_guard lock(mutex_);
  rows_ = now;
}

bool CatalogKeeper::TakeIn(const CatalogRows& rows) {
  bool changed = false;
  std::set<std::string> names;
  const int64_t now_ns = clock_->MonotonicNs();
  for (const ModelVersionRow& row : rows.versions) {
    const std::string name = ModelNameOf(row.name, row.version);
    names.insert(name);
    const auto known = versions_.find(name);
    if (known != versions_.end()) {
      if (known->second.model != nullptr || now_ns < known->second.retry_at_ns) continue;
    }
    if (row.retired) continue;  // whoever ran on it has gone with the master that knew it
    absl::StatusOr<ModelPtr> model = LoadVersion(row);
    Version version{.retry_at_ns = now_ns + kRetryNs};
    if (model.ok()) {
      version.model = *std::move(model);
      LogInfo("models", "a version of a model is served", {{"labels.model", name}});
    } else {
      version.why = std::string(Message(model.status()));
      if (known == versions_.end() || known->second.why != version.why) {
        LogWarn("models", "a version of a model cannot be read here",
                {{"labels.model", name}, {"error.message", version.why}});
      }
    }
    versions_[name] = std::move(version);
    changed = true;
  }
  std::erase_if(versions_, [&](const auto& version) { return !names.contains(version.first); });
  return changed;
}

void CatalogKeeper::Publish(const CatalogRows& rows) {
  CatalogContent content{.models = configured_};
  for (const ModelVersionRow& row : rows.versions) {
    const std::string name = ModelNameOf(row.name, row.version);
    const auto found = versions_.find(name);
    if (found == versions_.end()) continue;
    const Version& version = found->second;
    if (version.model == nullptr) {
      if (!row.retired) content.absent[name] = version.why;
    } else {
      (row.retired ? content.retired : content.models).push_back(version.model);
    }
  }
  for (const RouteRow& row : rows.routes) {
    absl::StatusOr<RouteTargets> targets = ParseTargets(row.targets);
    if (targets.ok()) content.routes.push_back({row.name, *std::move(targets)});
  }
  live_->Set(std::make_shared<const Catalog>(std::move(content)));
}

}  // namespace fathom::master
