#pragma once

// Has workers load and unload what the catalogue wants, as long as this master leads: looks every
// half second, gives the orders, and writes into the catalogue what has taken over. Everything
// that it decides is in ModelOrders.
//
// Thread safety: none; it has a thread of its own.

#include <functional>

#include "common/clock.h"
#include "common/periodic.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog_keeper.h"
#include "master/serving/model_orders.h"

namespace fathom::master {

class ModelKeeper {
 public:
  // All outlive it. `leads` is asked on its thread.
  ModelKeeper(Fleet* fleet, CatalogKeeper* catalog, const LiveCatalog* live,
              std::function<bool()> leads, const Clock* clock);

 private:
  void Look();
  void Give(const ModelOrder& order, const CatalogRows& rows);
  void Finish(const ModelVersionRow& row);
  void Finish(const RouteRow& route);

  Fleet* const fleet_;
  CatalogKeeper* const catalog_;
  const LiveCatalog* const live_;
  const std::function<bool()> leads_;
  const Clock* const clock_;
  // The ticker's own.
  ModelOrders orders_;
  bool led_ = false;
  Periodic ticker_;
};

}  // namespace fathom::master
