#include "worker/model/checkpoint.h"

#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/model/json_fields.h"

namespace fathom::worker {
namespace {

constexpr size_t kMaxIndexBytes = 64 << 20;
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";

// A shard lies in the model's folder and nowhere else.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && name != "." && name != "..";
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& folder) {
  Checkpoint checkpoint(folder);
  const std::string index_path = folder + "/" + kIndexName;
  absl::StatusOr<std::string> text = ReadFile(index_path, kMaxIndexBytes);
  if (absl::IsNotFound(text.status())) {
    RETURN_IF_ERROR(checkpoint.AddFile(kSingleName));
    return checkpoint;
  }
  RETURN_IF_ERROR(text.status());
  ASSIGN_OR_RETURN(const JsonFields index, JsonFields::Parse(*text, index_path));
  const boost::json::value* map = index.Find("weight_map");
  if (map == nullptr || !map->is_object()) return index.Wrong("weight_map", "not an object");
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->as_object()) {
    if (!file.is_string() || !IsPlainFileName({file.as_string().data(), file.as_string().size()})) {
      return index.Wrong("weight_map", absl::StrCat("\"", std::string(tensor),
                                                    "\" does not name a file of this folder"));
    }
    names.emplace(file.as_string());
  }
  for (const std::string& name : names) RETURN_IF_ERROR(checkpoint.AddFile(name));
  for (const auto& [tensor, file] : map->as_object()) {
    const auto found = checkpoint.tensors_.find(std::string_view(tensor.data(), tensor.size()));
    if (found == checkpoint.tensors_.end()) {
      return absl::DataLossError(absl::StrCat(folder, "/", file.as_string().c_str(), ": tensor \"",
                                              std::string(tensor),
                                              "\" of the index is not in this file"));
    }
  }
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& name) {
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                   SafetensorsFile::Open(folder_ + "/" + name));
  for (const auto& [tensor, view] : file->tensors()) {
    const auto [entry, added] = tensors_.emplace(tensor, Entry{view, files_.size()});
    if (!added) {
      return absl::DataLossError(absl::StrCat(file->path(), ": tensor \"", tensor, "\" is also in ",
                                              files_[entry->second.file]->path()));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::StatusOr<kernels::TensorView> Checkpoint::Find(std::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) {
    return absl::NotFoundError(
        absl::StrCat(folder_, ": tensor \"", ToAbsl(tensor), "\" is missing"));
  }
  return found->second.view;
}

const std::string& Checkpoint::FileOf(std::string_view tensor) const {
  return files_[tensors_.find(tensor)->second.file]->path();
}

}  // namespace fathom::worker
