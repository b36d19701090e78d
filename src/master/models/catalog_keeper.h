#pragma once

// Keeps a LiveCatalog true to the database: reads the catalogue every second when its revision has
// changed, reads the tokenizers and templates of versions that are new, and then sets all of it at
// once. A version that cannot be read here is told as absent and tried again; without the database
// the last that was known holds.
//
// It makes changes too: on a database thread, and reads the catalogue again at once.
//
// Thread safety: every method may be called from any thread; Make waits, so on no I/O or database
// thread.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "master/models/catalog.h"
#include "master/models/catalog_changes.h"
#include "master/state/catalog_rows.h"
#include "master/state/database.h"

namespace fathom::master {

// What a row's version is to masters.
absl::StatusOr<ModelPtr> LoadVersion(const ModelVersionRow& row);

class CatalogKeeper {
 public:
  // `configured` is always there; a version of its name never hides it. `database` and `live`
  // outlive this.
  CatalogKeeper(std::vector<ModelPtr> configured, Database* database, LiveCatalog* live,
                const Clock* clock);
  ~CatalogKeeper();
  CatalogKeeper(const CatalogKeeper&) = delete;
  CatalogKeeper& operator=(const CatalogKeeper&) = delete;

  // The catalogue as it was read last; null before it ever was.
  std::shared_ptr<const CatalogRows> rows() const;
  using Change = std::function<absl::Status(CatalogChanges&)>;
  // `done` is called once, on a database thread, with what came of it.
  void Post(Change change, std::function<void(const absl::Status&)> done);
  absl::Status Make(const Change& change);
  // To be read at once, if the database answers.
  void Hurry();

  const std::vector<ModelPtr>& configured() const { return configured_; }

 private:
  struct Version {
    ModelPtr model;  // null: it could not be read
    std::string why;
    int64_t retry_at_ns = 0;
  };

  Database::Job JobOf(Change change) const;
  void Run();
  void Look();
  // The thread's own. True when something of it changed.
  bool TakeIn(const CatalogRows& rows);
  void Publish(const CatalogRows& rows);

  const std::vector<ModelPtr> configured_;
  Database* const database_;
  LiveCatalog* const live_;
  const Clock* const clock_;
  std::map<std::string, Version> versions_;  // the thread's own; by model name

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // State below is protected by mutex_.
  std::shared_ptr<const CatalogRows> rows_;
  bool hurry_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace fathom::master
