#pragma once

// Has workers load and unload what the catalogue wants, as long as this master leads: looks every
// half second, gives the orders, and writes into the catalogue what has taken over. Everything
// that it decides is in ModelOrders.
//
// Thread safety: none; it has a thread of its own.

#include <cstdint>
#include <functional>
#include <optional>

#include "common/clock.h"
#include "common/periodic.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog_keeper.h"
#include "master/serving/model_orders.h"

namespace fathom::master {

class ModelKeeper {
 public:
  // All outlive it. `term`, the epoch in which this master leads now, is asked on its thread.
  ModelKeeper(Fleet* fleet, CatalogKeeper* catalog, const LiveCatalog* live,
              std::function<std::optional<uint64_t>()> term, const Clock* clock);

 private:
  void Look();
  void Give(const ModelOrder& order, const CatalogRows& rows, uint64_t epoch);
  void Finish(const ModelVersionRow& row);
  void Finish(const RouteRow& route);

  Fleet* const fleet_;
  CatalogKeeper* const catalog_;
  const LiveCatalog* const live_;
  const std::function<std::optional<uint64_t>()> term_;
  const Clock* const clock_;
  // The ticker's own.
  ModelOrders orders_;
  std::optional<uint64_t> led_;  // in that term
  Periodic ticker_;
};

}  // namespace fathom::master
