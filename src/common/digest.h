#pragma once

// SHA-256 (OpenSSL).

#include <string>
#include <string_view>

namespace fathom {

// Lower-case hex of the SHA-256 of `data`.
std::string Sha256Hex(std::string_view data);

// Equality whose time tells nothing about where two secrets differ. Lengths are not secret.
bool EqualInConstantTime(std::string_view a, std::string_view b);

}  // namespace fathom
