#include "cli/cluster/link_certificates.h"

#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/tls/authority.h"

namespace fathom::cli {
namespace {

constexpr size_t kPemBytesMax = size_t{1} << 16;
constexpr mode_t kSecret = 0600;
constexpr absl::Duration kAuthorityLifetime = absl::Hours(24 * 3650);

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(path, ": ", error.message()));
  return absl::OkStatus();
}

absl::StatusOr<TlsFiles> Issue(const Authority& authority, const std::string& folder,
                               const std::string& part, const std::string& dns_name, absl::Time now,
                               absl::Duration lifetime) {
  const std::string at = absl::StrCat(folder, "/", part);
  RETURN_IF_ERROR(MakeFolder(at));
  ASSIGN_OR_RETURN(const TlsIdentity identity, authority.Issue(dns_name, now, lifetime));
  TlsFiles files{.ca = absl::StrCat(folder, "/ca.pem"),
                 .certificate = absl::StrCat(at, "/cert.pem"),
                 .key = absl::StrCat(at, "/key.pem")};
  RETURN_IF_ERROR(WriteFileAtomically(files.key, identity.key, kSecret));
  RETURN_IF_ERROR(WriteFileAtomically(files.certificate, identity.certificate));
  return files;
}

absl::StatusOr<LinkCertificates> IssueBoth(const Authority& authority, const std::string& folder,
                                           absl::Time now, absl::Duration lifetime) {
  LinkCertificates made;
  ASSIGN_OR_RETURN(made.master, Issue(authority, folder, "master", kMasterTlsName, now, lifetime));
  ASSIGN_OR_RETURN(made.worker, Issue(authority, folder, "worker", kWorkerTlsName, now, lifetime));
  return made;
}

}  // namespace

absl::StatusOr<LinkCertificates> IssueLinkCertificates(const std::string& folder, absl::Time now,
                                                       absl::Duration lifetime) {
  RETURN_IF_ERROR(MakeFolder(folder));
  const std::string ca = absl::StrCat(folder, "/ca.pem");
  const std::string ca_key = absl::StrCat(folder, "/ca.key");
  const absl::StatusOr<std::string> key = ReadFile(ca_key, kPemBytesMax);
  if (absl::IsNotFound(key.status())) {
    // Certificates of a CA whose key is kept elsewhere must not be replaced by another's.
    if (std::filesystem::exists(ca)) {
      return absl::FailedPreconditionError(
          absl::StrCat(ca, " is there but its key is not: ", ca_key));
    }
    ASSIGN_OR_RETURN(const Authority authority, Authority::Create(now, kAuthorityLifetime));
    RETURN_IF_ERROR(WriteFileAtomically(ca_key, authority.pem().key, kSecret));
    RETURN_IF_ERROR(WriteFileAtomically(ca, authority.pem().certificate));
    ASSIGN_OR_RETURN(LinkCertificates made, IssueBoth(authority, folder, now, lifetime));
    made.new_authority = true;
    return made;
  }
  RETURN_IF_ERROR(key.status());
  ASSIGN_OR_RETURN(const std::string certificate, ReadFile(ca, kPemBytesMax));
  ASSIGN_OR_RETURN(const Authority authority,
                   Authority::FromPem({.certificate = certificate, .key = *key}));
  return IssueBoth(authority, folder, now, lifetime);
}

absl::StatusOr<LinkCertificates> IssuePassingCertificates(const std::string& folder,
                                                          absl::Time now) {
  RETURN_IF_ERROR(MakeFolder(folder));
  ASSIGN_OR_RETURN(const Authority authority, Authority::Create(now, kAuthorityLifetime));
  RETURN_IF_ERROR(
      WriteFileAtomically(absl::StrCat(folder, "/ca.pem"), authority.pem().certificate));
  return IssueBoth(authority, folder, now, kAuthorityLifetime);
}

}  // namespace fathom::cli
