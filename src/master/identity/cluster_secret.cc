#include "master/identity/cluster_secret.h"

#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "common/files.h"
#include "common/status_macros.h"

namespace fathom::master {
namespace {

constexpr size_t kBytesMin = 32;
constexpr size_t kBytesMax = 1024;

}  // namespace

absl::StatusOr<std::string> ReadClusterSecret(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & S_IRWXO) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(path, " is open to others; `chmod 600` it"));
  }
  ASSIGN_OR_RETURN(std::string secret, ReadFile(path, 2 * kBytesMax));
  while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r')) secret.pop_back();
  if (secret.size() < kBytesMin || secret.size() > kBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", secret.size(), " bytes, a cluster's secret has ", kBytesMin,
                     " to ", kBytesMax, "; `openssl rand -hex 32` makes one"));
  }
  return secret;
}

}  // namespace fathom::master
