#include "master/api/find_model.h"

#include <utility>

#include "absl/time/time.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr absl::Duration kAbsentRetry = absl::Seconds(1);

absl::Status NotFound(absl::Status status, std::string_view field) {
  return WithCode(WithParam(std::move(status), field), "model_not_found");
}

}  // namespace

absl::StatusOr<ModelPtr> FindModel(const Catalog& catalog, std::string_view name,
                                   const ModelDraw& draw, std::string_view field) {
  absl::StatusOr<ModelPtr> model = catalog.Get(name, draw);
  if (absl::IsNotFound(model.status())) {
    return NotFound(model.status(), field);
  }
  if (absl::IsUnavailable(model.status())) return WithRetryAfter(model.status(), kAbsentRetry);
  return model;
}

absl::StatusOr<ModelPtr> FindNamedModel(const Catalog& catalog, std::string_view name,
                                        const ModelDraw& draw, std::string_view field) {
  if (!name.empty()) return FindModel(catalog, name, draw, field);
  return NotFound(absl::NotFoundError("The model '' does not exist"), field);
}

}  // namespace fathom::master
