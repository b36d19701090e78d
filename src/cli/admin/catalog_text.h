#pragma once

// The model catalogue as people write and read it. Pure.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fathom/v1/admin.pb.h"

namespace fathom::cli {

struct ModelReference {
  std::string name;
  int64_t version = 0;  // 0: none is named
};

// "chat" or "chat@7".
absl::StatusOr<ModelReference> ParseModel(std::string_view text);
// "all" or a number.
absl::StatusOr<int64_t> ParseReplicas(const std::string& text);
// One target without a weight, or all with: "chat@7=95" "chat@8=5".
absl::StatusOr<v1::SetRouteRequest> RouteOf(const std::string& name,
                                            const std::vector<std::string>& targets);

std::string SharesText(const google::protobuf::RepeatedPtrField<v1::RouteShare>& shares);
std::string CatalogText(const v1::ListCatalogResponse& catalog);

}  // namespace fathom::cli
