#include "common/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <cstdlib>

#include "absl/strings/escaping.h"

namespace fathom {
namespace {

constexpr size_t kSha256Bytes = 32;

unsigned char* Bytes(std::string& out) { return reinterpret_cast<unsigned char*>(out.data()); }

}  // namespace

std::string Sha256(std::string_view data) {
  std::string out(kSha256Bytes, '\0');
  if (EVP_Digest(data.data(), data.size(), Bytes(out), nullptr, EVP_sha256(), nullptr) != 1) {
    std::abort();  // only a broken OpenSSL has no SHA-256
  }
  return out;
}

std::string Sha256Hex(std::string_view data) { return absl::BytesToHexString(Sha256(data)); }

std::string HmacSha256(std::string_view key, std::string_view data) {
  std::string out(kSha256Bytes, '\0');
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(data.data()), data.size(), Bytes(out),
           nullptr) == nullptr) {
    std::abort();  // likewise
  }
  return out;
}

bool EqualInConstantTime(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace fathom
