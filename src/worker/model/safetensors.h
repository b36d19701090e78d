#pragma once

// A safetensors file, mapped into memory. The header is little-endian u64 length, then JSON
// {name: {dtype, shape, data_offsets}}, then the bytes (format of the huggingface/safetensors
// README). Nothing in the file is trusted: lengths, offsets, overlaps and shape against bytes are
// checked before a tensor can be seen. Errors name the file and the tensor.
//
// Thread safety: immutable after Open. Views are valid as long as the file object.

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/tensor_view.h"

namespace fathom::worker {

inline constexpr size_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own limit

class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, kernels::TensorView, std::less<>>& tensors() const {
    return tensors_;
  }

 private:
  SafetensorsFile(std::string path, const char* data, size_t bytes)
      : path_(std::move(path)), data_(data), bytes_(bytes) {}
  absl::Status ReadHeader();

  const std::string path_;
  const char* const data_;
  const size_t bytes_;
  std::map<std::string, kernels::TensorView, std::less<>> tensors_;
};

}  // namespace fathom::worker
