#include "cli/admin/catalog_text.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/admin/table.h"
#include "cli/terminal.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

std::string Size(int64_t bytes) {
  if (bytes <= 0) return "-";
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib < 1024 ? absl::StrFormat("%.0f MiB", mib) : absl::StrFormat("%.1f GiB", mib / 1024);
}

std::string WorkersText(const v1::CatalogVersion& version) {
  if (version.workers().empty()) return "-";
  return absl::StrJoin(version.workers(), ",",
                       [](std::string* out, const v1::VersionOnWorker& worker) {
                         absl::StrAppend(out, Printable(worker.worker()));
                         if (worker.phase() != "ready")
                           absl::StrAppend(out, "(", worker.phase(), ")");
                       });
}

std::string StateText(const v1::CatalogVersion& version) {
  std::string text = version.state();
  if (version.replaces() > 0) {
    absl::StrAppend(&text, ", replaces @", version.replaces());
  }
  if (!version.detail().empty()) absl::StrAppend(&text, ": ", Printable(version.detail()));
  return text;
}

}  // namespace

absl::StatusOr<ModelReference> ParseModel(std::string_view text) {
  const size_t at = text.rfind('@');
  if (at == std::string_view::npos) return ModelReference{.name = std::string(text)};
  ModelReference model{.name = std::string(text.substr(0, at))};
  if (!absl::SimpleAtoi(ToAbsl(text.substr(at + 1)), &model.version) || model.version < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", ToAbsl(text), "' is neither NAME nor NAME@VERSION"));
  }
  return model;
}

absl::StatusOr<int64_t> ParseReplicas(const std::string& text) {
  if (text == "all") return -1;
  int64_t replicas = 0;
  if (absl::SimpleAtoi(text, &replicas) && replicas >= 1) return replicas;
  return absl::InvalidArgumentError("--replicas: a number from 1, or `all`");
}

absl::StatusOr<v1::SetRouteRequest> RouteOf(const std::string& name,
                                            const std::vector<std::string>& targets) {
  v1::SetRouteRequest request;
  request.set_name(name);
  for (const std::string& text : targets) {
    v1::RouteShare* share = request.add_targets();
    const size_t equals = text.rfind('=');
    int32_t weight = 100;
    if (equals == std::string::npos ? targets.size() > 1
                                    : !absl::SimpleAtoi(text.substr(equals + 1), &weight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "': of several targets, each is NAME@VERSION=PERCENT"));
    }
    share->set_model(text.substr(0, equals));
    share->set_weight(weight);
  }
  if (targets.empty()) return absl::InvalidArgumentError("a target is needed, or --drop");
  return request;
}

std::string SharesText(const google::protobuf::RepeatedPtrField<v1::RouteShare>& shares) {
  return absl::StrJoin(shares, ", ", [&](std::string* out, const v1::RouteShare& share) {
    absl::StrAppend(out, Printable(share.model()));
    if (shares.size() > 1) absl::StrAppend(out, " ", share.weight(), "%");
  });
}

std::string CatalogText(const v1::ListCatalogResponse& catalog) {
  std::string text;
  if (catalog.versions().empty()) return "no model is served: fathom model load PATH\n";
  Table models({"MODEL", "READY", "WANTED", "POOL", "MEMORY", "WORKERS", "STATE"});
  for (const v1::CatalogVersion& version : catalog.versions()) {
    const std::string wanted = version.version() == 0   ? "-"
                               : version.replicas() < 0 ? "all"
                                                        : absl::StrCat(version.replicas());
    models.Add({Printable(version.model()), absl::StrCat(version.ready_workers()), wanted,
                version.pool().empty() ? "-" : Printable(version.pool()),
                Size(version.memory_bytes()), WorkersText(version), StateText(version)});
  }
  text = models.Text();
  if (catalog.routes().empty()) return text;
  Table routes({"NAME", "LEADS TO", "BEFORE"});
  for (const v1::RouteStatus& route : catalog.routes()) {
    std::string targets = SharesText(route.targets());
    if (!route.pending().empty()) {
      absl::StrAppend(&targets, " (soon: ", SharesText(route.pending()), ")");
    }
    routes.Add({Printable(route.name()), targets,
                route.previous().empty() ? "-" : SharesText(route.previous())});
  }
  return absl::StrCat(text, "\n", routes.Text());
}

}  // namespace fathom::cli
