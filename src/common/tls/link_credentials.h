#pragma once

// Mutual TLS 1.3 between masters and workers. Both prove who they are by a certificate of one CA;
// what a certificate may be is its DNS name, `fathom-master` or `fathom-worker`, whatever address
// it is reached at. Files are watched: a certificate that is replaced is used for the next
// connection, without a restart.
//
// Thread safety: pure but for RequireTls13 and LogForGrpc, which belong at the start of main.

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace fathom {

inline constexpr char kMasterTlsName[] = "fathom-master";
inline constexpr char kWorkerTlsName[] = "fathom-worker";

// Paths of PEM files; all three or none.
struct TlsFiles {
  std::string ca;           // certificates that peers' are signed by
  std::string certificate;  // ours, with what lies between it and the CA
  std::string key;          // its private key

  bool empty() const { return ca.empty() && certificate.empty() && key.empty(); }
};

// Once, at the start of main, before gRPC shakes a hand: gRPC 1.51 has no other way to refuse
// TLS 1.2 than to offer it no cipher.
void RequireTls13();

// What gRPC has to say goes to our log instead of stderr. Peers can make it say things, so that
// nothing of it is more than a warning, and one whose handshakes with our server fail is named once
// in half a minute, with how often it was held back. Of ours with a server the link itself tells.
void LogForGrpc();

// INVALID_ARGUMENT names the file and what is wrong with it: not three files, not PEM, another
// key's certificate, not of the CA, expired or not yet valid at `now`, not for `name`.
absl::Status CheckTlsFiles(const TlsFiles& files, std::string_view name, absl::Time now);

// Until when our certificate is valid. REQUIRES: CheckTlsFiles passed.
absl::StatusOr<absl::Time> CertificateEnd(const TlsFiles& files);

// REQUIRES of both: CheckTlsFiles passed. Peers without a certificate of the CA get no connection.
std::shared_ptr<grpc::ServerCredentials> LinkServerCredentials(const TlsFiles& files);
// The channel needs SetSslTargetNameOverride(kMasterTlsName).
std::shared_ptr<grpc::ChannelCredentials> LinkChannelCredentials(const TlsFiles& files);

// Whether the peer of a call proved to be `name`; UNAUTHENTICATED or PERMISSION_DENIED if not.
absl::Status CheckPeer(const grpc::AuthContext& peer, std::string_view name);

}  // namespace fathom
