#pragma once

// The C ABI in C++ terms: borrowed text, owned buffers, Status.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "text/c_api.h"

namespace fathom::text {

inline fathom_bytes Borrow(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

inline std::string_view View(fathom_bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data), bytes.size};
}

// A buffer the library gave out.
class OwnedBuffer {
 public:
  OwnedBuffer() = default;
  OwnedBuffer(const OwnedBuffer&) = delete;
  OwnedBuffer& operator=(const OwnedBuffer&) = delete;
  ~OwnedBuffer() { fathom_buffer_free(buffer_); }

  // For a call to fill, at most once.
  fathom_buffer* out() { return &buffer_; }
  std::string_view view() const {
    return {reinterpret_cast<const char*>(buffer_.data), buffer_.size};
  }

 private:
  fathom_buffer buffer_ = {};
};

inline absl::Status ToStatus(int32_t code, const OwnedBuffer& error) {
  if (code == 0) return absl::OkStatus();
  const std::string_view message = error.view();
  return absl::Status(static_cast<absl::StatusCode>(code),
                      absl::string_view(message.data(), message.size()));
}

}  // namespace fathom::text
