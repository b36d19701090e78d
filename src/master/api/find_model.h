#pragma once

// The model that a request names, with the error that every dialect gives where there is none.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "master/models/catalog.h"

namespace fathom::master {

// `field` is where the dialect has the name.
absl::StatusOr<ModelPtr> FindModel(const Catalog& catalog, std::string_view name,
                                   const ModelDraw& draw, std::string_view field);
// Likewise, where an empty name is none.
absl::StatusOr<ModelPtr> FindNamedModel(const Catalog& catalog, std::string_view name,
                                        const ModelDraw& draw, std::string_view field);

}  // namespace fathom::master
