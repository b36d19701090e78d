#pragma once

// What the leading master has workers do with models: turns what the catalogue wants and what the
// fleet tells into orders, and says which replacements are ready to take over. Remembers what it
// ordered until the fleet shows it, and where a load failed, so that it is tried again there only
// after a while that doubles. A model whose worker is lost while it loads may be the cause: it is
// tried once more soon, and then only every ten minutes, so that it cannot take one worker after
// the other with it.
//
// Thread safety: none. Time comes in as an argument; reads no clock, sends nothing.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "master/fleet/fleet.h"
#include "master/models/catalog.h"
#include "master/models/placement.h"
#include "master/state/catalog_rows.h"

namespace fathom::master {

struct ModelOrder {
  WorkerKey worker;
  std::string model;
  bool load = true;  // false: unload
};

class ModelOrders {
 public:
  struct Decision {
    std::vector<ModelOrder> orders;
    std::vector<ModelVersionRow> replaced;  // ready: they take the place of what they replace
    std::vector<RouteRow> routes;           // all they wait for is ready
  };

  // From now on this master leads: it sees what there is for a while before it orders anything,
  // for workers may be about to link, and other masters about to hear of changes.
  void BeginTerm(int64_t now_ns);
  Decision Decide(const CatalogRows& rows, const FleetSnapshot& fleet, int64_t now_ns);

 private:
  // One model on one life of a worker.
  using Place = std::pair<std::string, std::string>;  // incarnation, model
  struct Ordered {
    bool load = true;
    int64_t at_ns = 0;
    uint64_t failures = 0;  // as the worker counted them then, where it had failed
  };
  struct Failure {
    int count = 0;
    int64_t retry_at_ns = 0;
    bool told = false;    // the worker still says so
    uint64_t number = 0;  // by its own count
  };
  // Of workers that were lost while a model loaded there.
  struct Crashes {
    std::set<std::string> lost;  // incarnations
    int64_t retry_at_ns = 0;
  };

  PlacementWorker Describe(const WorkerInfo& worker, const CatalogRows& rows, int64_t now_ns);
  void NoteFailure(const Place& place, const ServedModel& model, int64_t now_ns);
  bool IsReplaced(const ModelVersionRow& row, const CatalogRows& rows, const FleetSnapshot& fleet,
                  bool room) const;
  void NoteCrashes(const FleetSnapshot& fleet, int64_t now_ns);
  void Forget(const CatalogRows& rows, const FleetSnapshot& fleet);

  int64_t begin_at_ns_ = 0;
  std::map<Place, Ordered> ordered_;
  std::map<Place, Failure> failures_;
  std::set<Place> loading_;                       // when it was looked at last
  std::map<std::string, Crashes> crashes_;        // by model
  std::map<std::string, int64_t> retired_at_ns_;  // when it was first seen to be
};

}  // namespace fathom::master
