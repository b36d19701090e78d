#include "master/models/catalog_changes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace fathom::master {
namespace {

constexpr size_t kInUseMax = 256;
constexpr size_t kRoutesMax = 1024;
// Retired versions of a name that are remembered, so that a rollback finds them.
constexpr int kRetiredKept = 16;

bool Names(const std::string& text, const std::string& model) {
  const auto targets = ParseTargets(text);
  return targets.ok() &&
         std::any_of(targets->begin(), targets->end(),
                     [&](const RouteTarget& target) { return target.model == model; });
}

// Now, or once all is ready.
bool LeadsTo(const RouteRow& route, const std::string& model) {
  return Names(route.targets, model) || Names(route.pending, model);
}

}  // namespace

absl::StatusOr<SqlTransaction> CatalogChanges::Begin() {
  ASSIGN_OR_RETURN(SqlTransaction transaction, SqlTransaction::Begin(session_));
  RETURN_IF_ERROR(NextCatalogRevision(session_));
  ASSIGN_OR_RETURN(rows_, ReadCatalogRows(session_));
  return transaction;
}

ModelVersionRow* CatalogChanges::Find(const std::string& name, int64_t version) {
  const auto it = std::find_if(
      rows_.versions.begin(), rows_.versions.end(),
      [&](const ModelVersionRow& row) { return row.name == name && row.version == version; });
  return it == rows_.versions.end() ? nullptr : &*it;
}

const ModelVersionRow* CatalogChanges::Current(const std::string& name) {
  if (const RouteRow* route = FindRoute(name)) {
    const auto targets = ParseTargets(route->targets);
    const VersionedName main =
        targets.ok() ? SplitModelName(MainTarget(*targets).model) : VersionedName();
    if (main.name == name && main.version > 0) return Find(name, main.version);
  }
  const ModelVersionRow* newest = nullptr;
  for (const ModelVersionRow& row : rows_.versions) {
    if (row.name == name && !row.retired) newest = &row;  // they come by version
  }
  return newest;
}

bool CatalogChanges::IsRouted(const ModelVersionRow& row) const {
  const std::string model = ModelNameOf(row.name, row.version);
  return std::any_of(rows_.routes.begin(), rows_.routes.end(),
                     [&](const RouteRow& route) { return LeadsTo(route, model); });
}

RouteRow* CatalogChanges::FindRoute(const std::string& name) {
  const auto it = std::find_if(rows_.routes.begin(), rows_.routes.end(),
                               [&](const RouteRow& row) { return row.name == name; });
  return it == rows_.routes.end() ? nullptr : &*it;
}

bool CatalogChanges::IsConfigured(const std::string& name) const {
  return std::find(configured_.begin(), configured_.end(), name) != configured_.end();
}

absl::Status CatalogChanges::CheckInUse(const RouteTargets& targets) {
  RETURN_IF_ERROR(CheckTargets(targets));
  for (const RouteTarget& target : targets) {
    const VersionedName name = SplitModelName(target.model);
    if (name.version == 0) {
      if (IsConfigured(target.model)) continue;
      return absl::NotFoundError(
          absl::StrCat("no model is called ", target.model, "; versions are written NAME@VERSION"));
    }
    const ModelVersionRow* row = Find(name.name, name.version);
    if (row == nullptr || row->retired) {
      return absl::NotFoundError(absl::StrCat(target.model, " is not loaded"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelVersionRow> CatalogChanges::Insert(ModelVersionRow row) {
  const auto in_use = std::count_if(rows_.versions.begin(), rows_.versions.end(),
                                    [](const ModelVersionRow& other) { return !other.retired; });
  if (static_cast<size_t>(in_use) >= kInUseMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the catalogue has ", in_use, " versions in use: unload some"));
  }
  row.version = 1;
  for (const ModelVersionRow& other : rows_.versions) {
    if (other.name == row.name) row.version = std::max(row.version, other.version + 1);
  }
  RETURN_IF_ERROR(InsertModelVersion(session_, row));
  RETURN_IF_ERROR(Prune(row.name));
  return row;
}

// Numbers are never used again: the newest row of a name stays, and only retired ones go.
absl::Status CatalogChanges::Prune(const std::string& name) {
  int kept = 0;
  for (auto row = rows_.versions.rbegin(); row != rows_.versions.rend(); ++row) {
    if (row->name != name || !row->retired || ++kept <= kRetiredKept) continue;
    RETURN_IF_ERROR(DeleteModelVersion(session_, name, row->version));
  }
  return absl::OkStatus();
}

absl::Status CatalogChanges::Write(const std::string& name, const RouteTargets& targets) {
  const RouteRow* route = FindRoute(name);
  if (route == nullptr && rows_.routes.size() >= kRoutesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the catalogue has ", rows_.routes.size(), " routes: drop some"));
  }
  return WriteRoute(session_, {.name = name,
                               .targets = FormatTargets(targets),
                               .previous = route == nullptr ? std::string() : route->targets});
}

absl::StatusOr<int64_t> CatalogChanges::Supersede(const ModelVersionRow& old) {
  const bool waits = old.replaces != 0 && !IsRouted(old);
  const int64_t replaced = waits ? old.replaces : old.version;
  for (ModelVersionRow row : rows_.versions) {
    if (row.name != old.name || row.retired || row.replaces != replaced || IsRouted(row)) continue;
    row.retired = true;
    row.replaces = 0;
    RETURN_IF_ERROR(UpdateModelVersion(session_, row));
  }
  return replaced;
}

absl::StatusOr<ModelVersionRow> CatalogChanges::Add(ModelVersionRow row, bool replace) {
  RETURN_IF_ERROR(CheckRouteName(row.name));
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  row.replaces = 0;
  if (const ModelVersionRow* old = Current(row.name); replace && old != nullptr) {
    ASSIGN_OR_RETURN(row.replaces, Supersede(*old));
  }
  ASSIGN_OR_RETURN(row, Insert(std::move(row)));
  if (FindRoute(row.name) == nullptr && !IsConfigured(row.name)) {
    RETURN_IF_ERROR(Write(row.name, {{ModelNameOf(row.name, row.version), 100}}));
  }
  RETURN_IF_ERROR(transaction.Commit());
  return row;
}

absl::StatusOr<ModelVersionRow> CatalogChanges::Reload(const std::string& name, int64_t version) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  const ModelVersionRow* old = version == 0 ? Current(name) : Find(name, version);
  if (old == nullptr || old->retired) {
    return absl::NotFoundError(absl::StrCat(ModelNameOf(name, version), " is not loaded"));
  }
  ModelVersionRow row = *old;
  ASSIGN_OR_RETURN(row.replaces, Supersede(*old));
  ASSIGN_OR_RETURN(row, Insert(std::move(row)));
  RETURN_IF_ERROR(transaction.Commit());
  return row;
}

absl::Status CatalogChanges::Unload(const std::string& name, int64_t version) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  std::vector<ModelVersionRow> leaving;
  for (const ModelVersionRow& row : rows_.versions) {
    if (row.name == name && !row.retired && (version == 0 || row.version == version)) {
      leaving.push_back(row);
    }
  }
  if (leaving.empty()) {
    return absl::NotFoundError(absl::StrCat(
        ModelNameOf(name, version), " is not loaded",
        IsConfigured(name) ? "; a model of the configuration goes with its workers" : ""));
  }
  // Its name goes with all of its versions.
  if (version == 0) RETURN_IF_ERROR(CheckLeadsToItself(name));
  for (ModelVersionRow& row : leaving) {
    const std::string model = ModelNameOf(row.name, row.version);
    for (const RouteRow& route : rows_.routes) {
      if ((version == 0 && route.name == name) || !LeadsTo(route, model)) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("requests for '", route.name, "' go to ", model,
                       ": give that name another target first, or drop it"));
    }
    row.retired = true;
    row.replaces = 0;
    RETURN_IF_ERROR(UpdateModelVersion(session_, row));
  }
  if (version == 0) RETURN_IF_ERROR(DeleteRoute(session_, name));
  return transaction.Commit();
}

absl::Status CatalogChanges::CheckLeadsToItself(const std::string& name) const {
  for (const RouteRow& route : rows_.routes) {
    if (route.name != name) continue;
    for (const std::string& text : {route.targets, route.pending}) {
      if (text.empty()) continue;
      ASSIGN_OR_RETURN(const RouteTargets targets, ParseTargets(text));
      for (const RouteTarget& target : targets) {
        if (SplitModelName(target.model).name == name) continue;
        return absl::FailedPreconditionError(
            absl::StrCat("requests for '", name, "' go to ", target.model, ": name the version of ",
                         name, " to unload, or drop that alias first"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CatalogChanges::SetRoute(const std::string& name, const RouteTargets& targets) {
  RETURN_IF_ERROR(CheckRouteName(name));
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  RETURN_IF_ERROR(CheckInUse(targets));
  RETURN_IF_ERROR(Write(name, targets));
  return transaction.Commit();
}

absl::Status CatalogChanges::Canary(const std::string& name, const std::string& model,
                                    int32_t percent) {
  RETURN_IF_ERROR(CheckRouteName(name));
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  RouteTargets now;
  if (const RouteRow* route = FindRoute(name)) {
    ASSIGN_OR_RETURN(now, ParseTargets(route->targets));
  } else if (IsConfigured(name)) {
    now = {{.model = name, .weight = 100}};
  } else {
    return absl::NotFoundError(absl::StrCat("no route is called '", name, "'"));
  }
  ASSIGN_OR_RETURN(const RouteTargets targets, WithCanary(now, model, percent));
  RETURN_IF_ERROR(CheckInUse(targets));
  RETURN_IF_ERROR(Write(name, targets));
  return transaction.Commit();
}

absl::StatusOr<RouteRollback> CatalogChanges::Rollback(const std::string& name) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  RouteRow* route = FindRoute(name);
  if (route == nullptr) return absl::NotFoundError(absl::StrCat("no route is called '", name, "'"));
  if (route->previous.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("'", name, "' has not changed yet"));
  }
  RouteRollback rollback;
  ASSIGN_OR_RETURN(rollback.targets, ParseTargets(route->previous));
  for (const RouteTarget& target : rollback.targets) {
    const VersionedName version = SplitModelName(target.model);
    if (version.version == 0) continue;
    ModelVersionRow* row = Find(version.name, version.version);
    if (row == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(target.model, " was unloaded and is not remembered any more"));
    }
    if (!row->retired) continue;
    row->retired = false;
    RETURN_IF_ERROR(UpdateModelVersion(session_, *row));
    rollback.loading.push_back(target.model);
  }
  if (rollback.loading.empty()) {
    RETURN_IF_ERROR(Write(name, rollback.targets));
  } else {
    // Until they are back, what serves now goes on.
    route->pending = route->previous;
    RETURN_IF_ERROR(WriteRoute(session_, *route));
  }
  RETURN_IF_ERROR(transaction.Commit());
  return rollback;
}

absl::Status CatalogChanges::DropRoute(const std::string& name) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  if (FindRoute(name) == nullptr) {
    return absl::NotFoundError(absl::StrCat("no route is called '", name, "'"));
  }
  RETURN_IF_ERROR(fathom::master::DeleteRoute(session_, name));
  return transaction.Commit();
}

absl::Status CatalogChanges::FinishReplacement(const ModelVersionRow& row) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  ModelVersionRow* fresh = Find(row.name, row.version);
  if (fresh == nullptr || fresh->retired || fresh->replaces != row.replaces) {
    return absl::AbortedError("the catalogue has changed meanwhile");
  }
  const std::string to = ModelNameOf(fresh->name, fresh->version);
  const std::string from = ModelNameOf(fresh->name, fresh->replaces);
  for (const RouteRow& route : std::vector<RouteRow>(rows_.routes)) {
    if (!LeadsTo(route, from)) continue;
    ASSIGN_OR_RETURN(const RouteTargets targets, ParseTargets(route.targets));
    RETURN_IF_ERROR(Write(route.name, Replace(targets, from, to)));  // what was pending is not now
  }
  if (ModelVersionRow* old = Find(fresh->name, fresh->replaces); old != nullptr && !old->retired) {
    old->retired = true;
    old->replaces = 0;
    RETURN_IF_ERROR(UpdateModelVersion(session_, *old));
  }
  // Whatever was to replace the one that goes now, replaces this one.
  for (ModelVersionRow& other : rows_.versions) {
    if (other.name != fresh->name || other.retired || &other == fresh) continue;
    if (other.replaces != fresh->replaces) continue;
    other.replaces = fresh->version;
    RETURN_IF_ERROR(UpdateModelVersion(session_, other));
  }
  fresh->replaces = 0;
  RETURN_IF_ERROR(UpdateModelVersion(session_, *fresh));
  return transaction.Commit();
}

absl::Status CatalogChanges::FinishRoute(const RouteRow& route) {
  ASSIGN_OR_RETURN(SqlTransaction transaction, Begin());
  const RouteRow* now = FindRoute(route.name);
  if (now == nullptr || now->pending.empty() || now->pending != route.pending) {
    return absl::AbortedError("the catalogue has changed meanwhile");
  }
  ASSIGN_OR_RETURN(const RouteTargets targets, ParseTargets(now->pending));
  RETURN_IF_ERROR(CheckInUse(targets));
  RETURN_IF_ERROR(Write(route.name, targets));
  return transaction.Commit();
}

}  // namespace fathom::master
