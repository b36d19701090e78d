#pragma once

// SHA-256 and HMAC-SHA-256 (OpenSSL).

#include <string>
#include <string_view>

namespace fathom {

// The 32 bytes of the SHA-256 of `data`, and the same in lower-case hex.
std::string Sha256(std::string_view data);
std::string Sha256Hex(std::string_view data);

// 32 bytes that nobody can tell from random ones without `key`: derives keys from a secret.
std::string HmacSha256(std::string_view key, std::string_view data);

// Equality whose time tells nothing about where two secrets differ. Lengths are not secret.
bool EqualInConstantTime(std::string_view a, std::string_view b);

}  // namespace fathom
