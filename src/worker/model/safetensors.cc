#include "worker/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/unmap.h"
#include "worker/model/json_fields.h"

namespace fathom::worker {
namespace {

namespace json = boost::json;
using kernels::TensorView;

constexpr size_t kLengthBytes = 8;

struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string_view name;
};

std::optional<DType> ParseDType(std::string_view name) {
  for (const DType t : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kI8,
                        DType::kI32, DType::kI64, DType::kU8, DType::kBool}) {
    if (name == Name(t)) return t;
  }
  return std::nullopt;
}

absl::Status Wrong(std::string_view path, std::string_view tensor, std::string_view what) {
  return absl::DataLossError(
      absl::StrCat(ToAbsl(path), ": tensor \"", ToAbsl(tensor), "\": ", ToAbsl(what)));
}

std::optional<uint64_t> AsSize(const json::value& value) {
  if (value.is_uint64()) return value.as_uint64();
  if (value.is_int64() && value.as_int64() >= 0) return static_cast<uint64_t>(value.as_int64());
  return std::nullopt;
}

// Fills dtype and shape; the product of the shape cannot overflow afterwards.
absl::Status ParseShape(std::string_view path, std::string_view name, const json::object& entry,
                        TensorView& out) {
  const json::value* dtype = entry.if_contains("dtype");
  if (dtype == nullptr || !dtype->is_string()) return Wrong(path, name, "no dtype");
  const std::optional<DType> known =
      ParseDType({dtype->as_string().data(), dtype->as_string().size()});
  if (!known) {
    return Wrong(path, name, absl::StrCat("unknown dtype ", dtype->as_string().c_str()));
  }
  out.dtype = *known;
  const json::value* shape = entry.if_contains("shape");
  if (shape == nullptr || !shape->is_array()) return Wrong(path, name, "no shape");
  if (shape->as_array().size() > kernels::kMaxTensorRank) {
    return Wrong(path, name, "more dimensions than supported");
  }
  int64_t product = 1;
  for (const json::value& extent : shape->as_array()) {
    const std::optional<uint64_t> size = AsSize(extent);
    constexpr int64_t kLimit = std::numeric_limits<int64_t>::max() / 16;
    if (!size || *size > static_cast<uint64_t>(kLimit) ||
        (product > 0 && static_cast<int64_t>(*size) > kLimit / product)) {
      return Wrong(path, name, "shape is not a list of sizes");
    }
    product *= static_cast<int64_t>(*size);
    out.shape[out.rank++] = static_cast<int64_t>(*size);
  }
  return absl::OkStatus();
}

absl::StatusOr<Extent> ParseExtent(std::string_view path, std::string_view name,
                                   const json::object& entry, uint64_t data_bytes) {
  const json::value* offsets = entry.if_contains("data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->as_array().size() != 2) {
    return Wrong(path, name, "no data_offsets");
  }
  const std::optional<uint64_t> begin = AsSize(offsets->as_array()[0]);
  const std::optional<uint64_t> end = AsSize(offsets->as_array()[1]);
  if (!begin || !end || *begin > *end) {
    return Wrong(path, name, "data_offsets are not two ascending offsets");
  }
  if (*end > data_bytes) {
    return Wrong(path, name,
                 absl::StrCat("ends at byte ", *end, " of ", data_bytes,
                              ": the file is cut short or the header is wrong"));
  }
  return Extent{*begin, *end, name};
}

absl::Status CheckDisjoint(std::string_view path, std::vector<Extent>& extents) {
  std::ranges::sort(extents, {}, &Extent::begin);
  uint64_t end = 0;
  for (const Extent& extent : extents) {
    if (extent.begin < end) return Wrong(path, extent.name, "overlaps another tensor");
    end = extent.end;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  const absl::Cleanup closer = [file] { close(file); };
  struct stat info = {};
  if (fstat(file, &info) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  const auto bytes = static_cast<size_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || bytes < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(path, ": too short for a safetensors file"));
  }
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", path));
  std::unique_ptr<SafetensorsFile> opened(
      new SafetensorsFile(path, static_cast<const char*>(data), bytes));
  RETURN_IF_ERROR(opened->ReadHeader());
  return opened;
}

SafetensorsFile::~SafetensorsFile() { UnmapInSlices(const_cast<char*>(data_), bytes_); }

absl::Status SafetensorsFile::ReadHeader() {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, data_, kLengthBytes);
  if (header_bytes > kMaxSafetensorsHeaderBytes || header_bytes > bytes_ - kLengthBytes) {
    return absl::DataLossError(absl::StrCat(path_, ": header of ", header_bytes,
                                            " bytes does not fit a file of ", bytes_));
  }
  ASSIGN_OR_RETURN(const JsonFields header,
                   JsonFields::Parse({data_ + kLengthBytes, header_bytes}, path_ + ": header"));
  const uint64_t data_bytes = bytes_ - kLengthBytes - header_bytes;
  std::vector<Extent> extents;
  for (const auto& [key, value] : header.object()) {
    const std::string_view name(key.data(), key.size());
    if (name == "__metadata__") continue;
    if (!value.is_object()) return Wrong(path_, name, "not an object");
    TensorView view;
    RETURN_IF_ERROR(ParseShape(path_, name, value.as_object(), view));
    ASSIGN_OR_RETURN(const Extent extent, ParseExtent(path_, name, value.as_object(), data_bytes));
    if (extent.end - extent.begin != view.NumBytes()) {
      return Wrong(path_, name,
                   absl::StrCat("shape and dtype need ", view.NumBytes(),
                                " bytes, data_offsets give ", extent.end - extent.begin));
    }
    view.data = data_ + kLengthBytes + header_bytes + extent.begin;
    if (extent.end > extent.begin) extents.push_back(extent);
    if (!tensors_.emplace(name, view).second) return Wrong(path_, name, "named twice");
  }
  return CheckDisjoint(path_, extents);
}

}  // namespace fathom::worker
