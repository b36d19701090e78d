#include "master/models/catalog.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "common/siphash.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

// No secret: every master marks alike.
constexpr SipKey kMarkKey = {0x66617468'6f6d206dULL, 0x6f64656c'206d6172ULL};

ModelPtr FindIn(const std::vector<ModelPtr>& models, std::string_view name) {
  const auto it = std::find_if(models.begin(), models.end(),
                               [&](const ModelPtr& model) { return model->name == name; });
  return it == models.end() ? nullptr : *it;
}

ModelPtr FindIn(const std::vector<ModelPtr>& models, uint32_t mark) {
  const auto it = std::find_if(models.begin(), models.end(),
                               [&](const ModelPtr& model) { return MarkOf(model->name) == mark; });
  return it == models.end() ? nullptr : *it;
}

}  // namespace

uint32_t MarkOf(std::string_view model) {
  return static_cast<uint32_t>(SipHash128(kMarkKey, std::as_bytes(std::span(model))).lo);
}

absl::StatusOr<ModelPtr> Catalog::GetModel(std::string_view model) const {
  if (ModelPtr found = FindIn(content_.models, model)) return found;
  const auto absent = content_.absent.find(std::string(model));
  if (absent != content_.absent.end()) {
    return absl::UnavailableError(
        absl::StrCat("this master cannot serve ", absent->first, " now: ", absent->second));
  }
  return Missing(absl::StrCat("The model '", ToAbsl(model), "' does not exist"));
}

absl::Status Catalog::Missing(std::string_view why) const {
  if (content_.whole) return absl::NotFoundError(ToAbsl(why));
  return absl::UnavailableError(
      "this master has not read yet which models there are: its database does not answer");
}

absl::StatusOr<ModelPtr> Catalog::Get(std::string_view name, const ModelDraw& draw) const {
  if (draw.mark) {
    ModelPtr model = FindIn(content_.models, *draw.mark);
    if (model == nullptr) model = FindIn(content_.retired, *draw.mark);
    if (model != nullptr) return model;
    return Missing("the model that this request ran on is served no more");
  }
  if (name.empty() && content_.models.size() == 1) return content_.models.front();
  const CatalogRoute* route = FindRoute(name);
  if (route == nullptr) return GetModel(name);
  return GetModel(draw.request_id.empty() ? MainTarget(route->targets).model
                                          : DrawTarget(route->targets, draw.request_id).model);
}

const CatalogRoute* Catalog::FindRoute(std::string_view name) const {
  const auto it = std::find_if(content_.routes.begin(), content_.routes.end(),
                               [&](const CatalogRoute& route) { return route.name == name; });
  return it == content_.routes.end() ? nullptr : &*it;
}

std::string Catalog::WhyAbsent(const std::string& model) const {
  const auto absent = content_.absent.find(model);
  return absent == content_.absent.end() ? std::string() : absent->second;
}

std::vector<int64_t> Catalog::VersionsOf(std::string_view base) const {
  std::vector<int64_t> versions;
  for (const ModelPtr& model : content_.models) {
    if (model->base == base) versions.push_back(model->version);
  }
  return versions;
}

}  // namespace fathom::master
