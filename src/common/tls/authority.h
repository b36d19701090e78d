#pragma once

// A certificate authority small enough for one cluster: a self-signed P-256 certificate that signs
// those of masters and workers. Immutable; thread safe.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/tls/openssl_handles.h"

namespace fathom {

// A certificate and its private key (PKCS #8), in PEM.
struct TlsIdentity {
  std::string certificate;
  std::string key;
};

class Authority {
 public:
  // A new one. Valid from an hour before `now`, so that clocks may differ.
  static absl::StatusOr<Authority> Create(absl::Time now, absl::Duration lifetime);
  // One that was made before. INVALID_ARGUMENT when it is no CA or the key is not its own.
  static absl::StatusOr<Authority> FromPem(const TlsIdentity& pem);

  // For a server or client of this DNS name; not longer than the authority itself lives.
  absl::StatusOr<TlsIdentity> Issue(const std::string& dns_name, absl::Time now,
                                    absl::Duration lifetime) const;

  const TlsIdentity& pem() const { return pem_; }

 private:
  Authority() = default;

  openssl::Certificate certificate_;
  openssl::Key key_;
  TlsIdentity pem_;
};

}  // namespace fathom
