#include "master/api/kserve_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/version.h"
#include "master/api/find_model.h"
#include "master/api/kserve_tensor.h"
#include "master/serving/failure.h"

namespace fathom::master {
namespace {

constexpr std::string_view kPlatform = "fathom";

constexpr KserveTensorSpec kInputs[] = {
    {"text_input", inference::TYPE_STRING},
    {"messages", inference::TYPE_STRING},
    {"input_ids", inference::TYPE_INT32, -1},
    {"stream", inference::TYPE_BOOL},
    {"max_tokens", inference::TYPE_INT32},
    {"min_tokens", inference::TYPE_INT32},
    {"ignore_eos", inference::TYPE_BOOL},
    {"stop", inference::TYPE_STRING, -1},
    {"temperature", inference::TYPE_FP32},
    {"top_k", inference::TYPE_INT32},
    {"top_p", inference::TYPE_FP32},
    {"min_p", inference::TYPE_FP32},
    {"presence_penalty", inference::TYPE_FP32},
    {"frequency_penalty", inference::TYPE_FP32},
    {"repetition_penalty", inference::TYPE_FP32},
    {"seed", inference::TYPE_UINT64},
};

constexpr KserveTensorSpec kOutputs[] = {
    {"text_output", inference::TYPE_STRING},
    {"output_ids", inference::TYPE_INT32, -1},
    {"finish_reason", inference::TYPE_STRING},
};

void Fill(const DurationSum& sum, inference::StatisticDuration& out) {
  out.set_count(sum.count);
  out.set_ns(sum.ns);
}

inference::ModelStatistics StatisticsOf(const Serving& serving, const ServedModelInfo& model) {
  const ModelStatistics sums = serving.statistics().Of(model.name);
  inference::ModelStatistics out;
  out.set_name(model.base);
  out.set_version(absl::StrCat(model.version));
  out.set_last_inference(static_cast<uint64_t>(
      std::max<int64_t>(sums.last == absl::InfinitePast() ? 0 : absl::ToUnixMillis(sums.last), 0)));
  out.set_inference_count(sums.success.count);
  out.set_execution_count(sums.success.count);
  inference::InferStatistics& times = *out.mutable_inference_stats();
  Fill(sums.success, *times.mutable_success());
  Fill(sums.failure, *times.mutable_fail());
  Fill(sums.queue, *times.mutable_queue());
  Fill(sums.prepare, *times.mutable_compute_input());
  Fill(sums.compute, *times.mutable_compute_infer());
  return out;
}

absl::Status CheckRepository(const std::string& name) {
  if (name.empty()) return absl::OkStatus();
  return WithParam(absl::NotFoundError("there is one repository and it has no name"),
                   "repository_name");
}

}  // namespace

std::span<const KserveTensorSpec> KserveInputSpecs() { return kInputs; }
std::span<const KserveTensorSpec> KserveOutputSpecs() { return kOutputs; }

absl::StatusOr<ModelPtr> FindKserveModel(const Catalog& catalog, const std::string& name,
                                         const std::string& version, const ModelDraw& draw) {
  if (version.empty()) return FindNamedModel(catalog, name, draw, "model_name");
  ASSIGN_OR_RETURN(ModelPtr model, FindNamedModel(catalog, name, {}, "model_name"));
  if (version == absl::StrCat(model->version)) return model;
  if (ModelPtr other = catalog.Find(absl::StrCat(model->base, "@", version))) return other;
  const std::vector<int64_t> versions = catalog.VersionsOf(model->base);
  return WithParam(
      absl::NotFoundError(absl::StrCat("The model '", name, "' has no version '", version,
                                       "', only '", absl::StrJoin(versions, "', '"), "'")),
      "model_version");
}

inference::ServerMetadataResponse KserveServerMetadata() {
  inference::ServerMetadataResponse out;
  out.set_name("fathom");
  out.set_version(kVersion);
  for (const char* extension : {"binary_tensor_data", "generate", "model_configuration",
                                "model_repository", "parameters", "statistics"}) {
    out.add_extensions(extension);
  }
  return out;
}

inference::ModelMetadataResponse KserveMetadata(const Catalog& catalog,
                                                const ServedModelInfo& model) {
  inference::ModelMetadataResponse out;
  out.set_name(model.base);
  for (const int64_t version : catalog.VersionsOf(model.base)) {
    out.add_versions(absl::StrCat(version));
  }
  out.set_platform(std::string(kPlatform));
  const auto fill = [](const KserveTensorSpec& spec, auto& tensor) {
    tensor.set_name(std::string(spec.name));
    tensor.set_datatype(std::string(DataTypeName(spec.type)));
    tensor.add_shape(spec.size);
  };
  for (const KserveTensorSpec& spec : kInputs) fill(spec, *out.add_inputs());
  for (const KserveTensorSpec& spec : kOutputs) fill(spec, *out.add_outputs());
  return out;
}

inference::ModelConfig KserveConfig(const ServedModelInfo& model) {
  inference::ModelConfig out;
  out.set_name(model.base);
  out.set_platform(std::string(kPlatform));
  out.set_backend(std::string(kPlatform));
  const auto fill = [](const KserveTensorSpec& spec, auto& tensor) {
    tensor.set_name(std::string(spec.name));
    tensor.set_data_type(spec.type);
    tensor.add_dims(spec.size);
  };
  for (const KserveTensorSpec& spec : kInputs) {
    inference::ModelInput& input = *out.add_input();
    fill(spec, input);
    input.set_optional(true);
  }
  for (const KserveTensorSpec& spec : kOutputs) fill(spec, *out.add_output());
  out.mutable_model_transaction_policy()->set_decoupled(true);
  return out;
}

absl::StatusOr<inference::ModelStatisticsResponse> KserveStatistics(const Serving& serving,
                                                                    const std::string& name,
                                                                    const std::string& version) {
  inference::ModelStatisticsResponse out;
  const CatalogPtr catalog = serving.catalog();
  if (name.empty()) {
    for (const ModelPtr& model : catalog->models()) {
      *out.add_model_stats() = StatisticsOf(serving, *model);
    }
    return out;
  }
  ASSIGN_OR_RETURN(const ModelPtr model, FindKserveModel(*catalog, name, version));
  *out.add_model_stats() = StatisticsOf(serving, *model);
  return out;
}

absl::StatusOr<inference::RepositoryIndexResponse> KserveIndex(
    const Serving& serving, const inference::RepositoryIndexRequest& request) {
  RETURN_IF_ERROR(CheckRepository(request.repository_name()));
  inference::RepositoryIndexResponse out;
  const CatalogPtr catalog = serving.catalog();
  for (const ModelPtr& model : catalog->models()) {
    const absl::Status ready = KserveModelReady(serving, *model);
    if (request.ready() && !ready.ok()) continue;
    auto& entry = *out.add_models();
    entry.set_name(model->base);
    entry.set_version(absl::StrCat(model->version));
    entry.set_state(ready.ok() ? "READY" : "UNAVAILABLE");
    entry.set_reason(std::string(Message(ready)));
  }
  return out;
}

absl::Status KserveModelReady(const Serving& serving, const ServedModelInfo& model) {
  if (serving.draining()) return absl::UnavailableError("the server is shutting down");
  if (serving.ReadyWorkers(model) > 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("no worker is ready to run the model '", model.name, "'"));
}

absl::Status KserveLoad(const Catalog& catalog,
                        const inference::RepositoryModelLoadRequest& request) {
  RETURN_IF_ERROR(CheckRepository(request.repository_name()));
  RETURN_IF_ERROR(FindKserveModel(catalog, request.model_name(), "").status());
  if (request.parameters().empty()) return absl::OkStatus();
  return BadField("parameters",
                  "models are served as the catalogue has them; parameters are refused");
}

absl::Status KserveUnload(const Catalog& catalog,
                          const inference::RepositoryModelUnloadRequest& request) {
  RETURN_IF_ERROR(CheckRepository(request.repository_name()));
  RETURN_IF_ERROR(FindKserveModel(catalog, request.model_name(), "").status());
  return absl::FailedPreconditionError("models are unloaded by an operator: fathom model unload");
}

}  // namespace fathom::master
