#pragma once

// Models as the Open Inference Protocol describes them: versions, inputs and outputs,
// configuration, statistics. Pure but for Serving, which is asked for its snapshots; any thread.

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "inference/kserve.pb.h"
#include "master/models/catalog.h"
#include "master/serving/serving.h"

namespace fathom::master {

struct KserveTensorSpec {
  std::string_view name;
  inference::DataType type = inference::TYPE_INVALID;
  int64_t size = 1;  // of the only dimension; -1: any
};

// What every model reads and writes. All inputs but the prompt are optional, and the prompt comes
// in exactly one of text_input, messages and input_ids.
std::span<const KserveTensorSpec> KserveInputSpecs();
std::span<const KserveTensorSpec> KserveOutputSpecs();

// NOT_FOUND that names what there is not. Without a version, the name may be a route's.
absl::StatusOr<ModelPtr> FindKserveModel(const Catalog& catalog, const std::string& name,
                                         const std::string& version, const ModelDraw& draw = {});

inference::ServerMetadataResponse KserveServerMetadata();
inference::ModelMetadataResponse KserveMetadata(const Catalog& catalog,
                                                const ServedModelInfo& model);
inference::ModelConfig KserveConfig(const ServedModelInfo& model);
// Of one model, or of all when the name is empty.
absl::StatusOr<inference::ModelStatisticsResponse> KserveStatistics(const Serving& serving,
                                                                    const std::string& name,
                                                                    const std::string& version);
absl::StatusOr<inference::RepositoryIndexResponse> KserveIndex(
    const Serving& serving, const inference::RepositoryIndexRequest& request);

// OK when some worker is ready to run the model; else the reason.
absl::Status KserveModelReady(const Serving& serving, const ServedModelInfo& model);

// What is loaded is the catalogue's business (fathom.v1.Admin), which takes other rights: loading
// one that is served changes nothing, unloading is refused.
absl::Status KserveLoad(const Catalog& catalog,
                        const inference::RepositoryModelLoadRequest& request);
absl::Status KserveUnload(const Catalog& catalog,
                          const inference::RepositoryModelUnloadRequest& request);

}  // namespace fathom::master
