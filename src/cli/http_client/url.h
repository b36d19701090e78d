#pragma once

// http URLs of servers, as people type them.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fathom::cli {

struct Url {
  std::string host;  // without the brackets of an IPv6 address
  uint16_t port = 80;
  std::string base;  // path that goes before every target; empty or "/x", never ends in "/"

  // As the Host header has it.
  std::string authority() const;
};

// "http://host:port/base", "host:port" or "host". A trailing "/v1" is dropped, since OpenAI clients
// are configured with it. INVALID_ARGUMENT for anything else; https is refused with that word.
absl::StatusOr<Url> ParseUrl(std::string_view text);

}  // namespace fathom::cli
