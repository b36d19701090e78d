#include "common/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>
#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace fathom {

std::string Sha256Hex(std::string_view data) {
  std::array<unsigned char, 32> out;
  unsigned int size = 0;
  if (EVP_Digest(data.data(), data.size(), out.data(), &size, EVP_sha256(), nullptr) != 1) {
    std::abort();  // only a broken OpenSSL has no SHA-256
  }
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(out.data()), out.size()));
}

bool EqualInConstantTime(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace fathom
