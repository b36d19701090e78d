#pragma once

// The certificates that masters and workers of one cluster know each other by, as files in a
// folder:
//
//   ca.pem                        the CA's certificate: every master and worker needs it
//   ca.key                        its private key: belongs on none of them (mode 0600)
//   master/cert.pem, master/key.pem
//   worker/cert.pem, worker/key.pem   (keys: mode 0600)

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/tls/link_credentials.h"

namespace fathom::cli {

struct LinkCertificates {
  TlsFiles master;
  TlsFiles worker;
  bool new_authority = false;  // there was no CA in the folder
};

// New certificates for masters and workers, of the folder's CA where there is one. Processes that
// watch the files go on with the new ones.
absl::StatusOr<LinkCertificates> IssueLinkCertificates(const std::string& folder, absl::Time now,
                                                       absl::Duration lifetime);

// Likewise of a CA that nobody can use again: its key is never written. For one run.
absl::StatusOr<LinkCertificates> IssuePassingCertificates(const std::string& folder,
                                                          absl::Time now);

}  // namespace fathom::cli
