#include "master/serving/resume_keys.h"

#include <cstring>
#include <span>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/siphash.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr size_t kIdBytes = 16;
constexpr size_t kProofBytes = 8;

}  // namespace

ResumeKeys::ResumeKeys(std::string_view cluster_secret)
    : key_(HmacSha256(cluster_secret, "fathom resumption\n")) {}

std::string ResumeKeys::IdOf(std::string_view key_id, std::string_view idempotency_key) const {
  // The length keeps one pair from passing for another.
  const std::string text =
      absl::StrCat("id\n", key_id.size(), "\n", ToAbsl(key_id), ToAbsl(idempotency_key));
  return absl::BytesToHexString(ToAbsl(HmacSha256(key_, text)).substr(0, kIdBytes));
}

uint64_t ResumeKeys::SeedOf(std::string_view request_id) const {
  uint64_t seed = 0;
  std::memcpy(&seed, HmacSha256(key_, absl::StrCat("seed\n", ToAbsl(request_id))).data(),
              sizeof(seed));
  return seed;
}

std::string ResumeKeys::ProofOf(std::string_view request_id, std::string_view key_id,
                                std::string_view body) const {
  // A body may be large, and its hash needs no more strength than the proof has.
  SipKey key{};
  std::memcpy(key.data(), key_.data(), sizeof(key));
  const Hash128 hash = SipHash128(key, std::as_bytes(std::span(body)));
  const std::string text = absl::StrCat("proof\n", ToAbsl(request_id), "\n", ToAbsl(key_id), "\n",
                                        absl::Hex(hash.lo), ".", absl::Hex(hash.hi));
  return absl::BytesToHexString(ToAbsl(HmacSha256(key_, text)).substr(0, kProofBytes));
}

}  // namespace fathom::master
