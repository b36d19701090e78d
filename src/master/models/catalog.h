#pragma once

// The models that requests may ask for, and where requests for a name go. A Catalog is one moment's
// and immutable; LiveCatalog has the newest, which whoever handles a request takes once.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "master/models/routes.h"
#include "master/models/served_model.h"

namespace fathom::master {

// What decides between the targets of a route.
struct ModelDraw {
  std::string_view request_id;   // empty: the target of the greatest weight
  std::optional<uint32_t> mark;  // of the model that the request ran on before
};

// Names a model in few bytes, for clients that come back to it.
uint32_t MarkOf(std::string_view model);

struct CatalogRoute {
  std::string name;
  RouteTargets targets;
};

struct CatalogContent {
  std::vector<ModelPtr> models;               // that requests may ask for
  std::vector<ModelPtr> retired;              // that only requests which ran on them before may
  std::vector<CatalogRoute> routes;           // by name
  std::map<std::string, std::string> absent;  // models that this master cannot speak for: why
  bool whole = true;                          // false: the database may know more
};

class Catalog {
 public:
  explicit Catalog(std::vector<ModelPtr> models)
      : Catalog(CatalogContent{.models = std::move(models)}) {}
  explicit Catalog(CatalogContent content) : content_(std::move(content)) {}

  // A model's own name or a route's; an empty one is that of the only model, if there is one only.
  // NOT_FOUND; UNAVAILABLE when this master cannot speak for the model yet, or not know of it.
  absl::StatusOr<ModelPtr> Get(std::string_view name, const ModelDraw& draw = {}) const;
  // Likewise; null where Get has an error.
  ModelPtr Find(std::string_view name) const { return Get(name).value_or(nullptr); }

  // Requests for that name may go to one model or another, now or at another time.
  bool IsRoute(std::string_view name) const { return FindRoute(name) != nullptr; }

  const std::vector<ModelPtr>& models() const { return content_.models; }
  const std::vector<CatalogRoute>& routes() const { return content_.routes; }
  // Why this master cannot speak for a model; empty: it can, or there is none.
  std::string WhyAbsent(const std::string& model) const;
  // Of all models that requests may ask for, in their order.
  std::vector<int64_t> VersionsOf(std::string_view base) const;

 private:
  absl::StatusOr<ModelPtr> GetModel(std::string_view model) const;
  absl::Status Missing(std::string_view why) const;
  const CatalogRoute* FindRoute(std::string_view name) const;

  const CatalogContent content_;
};

using CatalogPtr = std::shared_ptr<const Catalog>;

// Thread safety: any thread.
class LiveCatalog {
 public:
  explicit LiveCatalog(Catalog catalog)
      : now_(std::make_shared<const Catalog>(std::move(catalog))) {}

  CatalogPtr Now() const {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  void Set(CatalogPtr catalog) {
    const std::lock_guard lock(mutex_);
    now_.swap(catalog);
  }

 private:
  mutable std::mutex mutex_;
  CatalogPtr now_;  // protected by mutex_
};

}  // namespace fathom::master
