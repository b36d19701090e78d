#pragma once

// The catalogue as operators see it: what is wanted, what the fleet has of it, and why the two
// differ where they do. Pure.

#include <string>

#include "fathom/v1/admin.pb.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog.h"
#include "master/state/catalog_rows.h"

namespace fathom::master {

// `absent`: why this master cannot speak for it; empty: it can.
v1::CatalogVersion StatusOf(const ModelVersionRow& row, const FleetSnapshot& fleet,
                            const std::string& absent);
// Of a model of the configuration.
v1::CatalogVersion StatusOf(const ServedModelInfo& model, const FleetSnapshot& fleet);

v1::RouteStatus StatusOf(const RouteRow& row);
void FillShares(const RouteTargets& targets,
                google::protobuf::RepeatedPtrField<v1::RouteShare>& shares);

}  // namespace fathom::master
