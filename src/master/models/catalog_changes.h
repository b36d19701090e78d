#pragma once

// Changes of the model catalogue, each one transaction: what an operator asks for, and what the
// leader does once a version is ready. An error has changed nothing; UNAVAILABLE is the database's.
// On a database thread.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "master/models/routes.h"
#include "master/state/catalog_rows.h"
#include "master/state/sql_session.h"

namespace fathom::master {

struct RouteRollback {
  RouteTargets targets;              // where the route leads, or will
  std::vector<std::string> loading;  // what must be ready first
};

class CatalogChanges {
 public:
  // `configured`: models of the masters' configuration, which routes may name.
  CatalogChanges(SqlSession* session, std::vector<std::string> configured)
      : session_(*session), configured_(std::move(configured)) {}

  // A new version of `row.name`, whose number is set here. The first one gets a route of its name
  // unless there is one, or a configured model. With `replace`, it takes the place of the current
  // version as soon as it is ready, which then goes.
  absl::StatusOr<ModelVersionRow> Add(ModelVersionRow row, bool replace);
  // A version once more (0: the current one), read again from where it is: a version of its own
  // that replaces it. NOT_FOUND when there is none.
  absl::StatusOr<ModelVersionRow> Reload(const std::string& name, int64_t version);

  // FAILED_PRECONDITION while a route leads there. Version 0: all of them and the route of that
  // name; then only other routes count.
  absl::Status Unload(const std::string& name, int64_t version);

  // NOT_FOUND for targets that are not in use.
  absl::Status SetRoute(const std::string& name, const RouteTargets& targets);
  absl::Status Canary(const std::string& name, const std::string& model, int32_t percent);
  // What the route was before its last change. Where a version of it has been retired since, that
  // is loaded again, and the route changes once all are ready.
  absl::StatusOr<RouteRollback> Rollback(const std::string& name);
  absl::Status DropRoute(const std::string& name);

  // `row` is ready: every route to the version that it replaces leads to it, and that one is
  // retired. ABORTED when that is not so any more.
  absl::Status FinishReplacement(const ModelVersionRow& row);
  // All that `route` is to lead to is ready. ABORTED when it is to lead elsewhere by now.
  absl::Status FinishRoute(const RouteRow& route);

 private:
  absl::StatusOr<SqlTransaction> Begin();
  ModelVersionRow* Find(const std::string& name, int64_t version);
  // What requests for the name get, if it is a version of it, else the newest in use.
  const ModelVersionRow* Current(const std::string& name);
  bool IsRouted(const ModelVersionRow& row) const;
  RouteRow* FindRoute(const std::string& name);
  bool IsConfigured(const std::string& name) const;
  absl::Status CheckInUse(const RouteTargets& targets);
  // An error when requests for that name go to models of other names.
  absl::Status CheckLeadsToItself(const std::string& name) const;
  absl::StatusOr<ModelVersionRow> Insert(ModelVersionRow row);
  // Which version one that is to replace `old` replaces. Others that wait for that and serve nobody
  // make way at once.
  absl::StatusOr<int64_t> Supersede(const ModelVersionRow& old);
  absl::Status Write(const std::string& name, const RouteTargets& targets);
  absl::Status Prune(const std::string& name);

  SqlSession& session_;
  const std::vector<std::string> configured_;
  CatalogRows rows_;  // as they are within the transaction
};

}  // namespace fathom::master
