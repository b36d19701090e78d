#include <cstdio>
#include <memory>

#include "cli/cluster/link_certificates.h"
#include "cli/command.h"
#include "common/clock.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

struct CertFlags {
  std::string folder;
  int days = 365;
};

absl::Status MakeCertificates(const CertFlags& flags) {
  const absl::StatusOr<LinkCertificates> issued =
      IssueLinkCertificates(flags.folder, Clock::Real()->Now(), absl::Hours(24) * flags.days);
  // A folder that cannot be written is no key that was refused, which has an exit code of its own.
  if (absl::IsPermissionDenied(issued.status())) {
    return absl::FailedPreconditionError(issued.status().message());
  }
  ASSIGN_OR_RETURN(const LinkCertificates made, issued);
  const auto print = [](const char* program, const TlsFiles& files) {
    std::printf("%s --link-ca %s --link-cert %s --link-key %s\n", program, files.ca.c_str(),
                files.certificate.c_str(), files.key.c_str());
  };
  print("fathom-master", made.master);
  print("fathom-worker", made.worker);
  if (made.new_authority) {
    std::fprintf(stderr,
                 "fathom: made a new CA; keep %s/ca.key where neither masters nor workers are\n",
                 flags.folder.c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddCertCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<CertFlags>();
  CLI::App* command = app.add_subcommand(
      "cert",
      "Make the certificates that masters and workers know each other by (mutual TLS). Asked again "
      "it renews them, of the same CA; running processes take the new ones up by themselves");
  command->add_option("FOLDER", flags->folder, "Where they are written")->required();
  command->add_option("--days", flags->days, "How long they are valid")
      ->capture_default_str()
      ->check(CLI::Range(1, 3650));
  command->callback([flags, &context] { context.exit_code = Report(MakeCertificates(*flags)); });
}

}  // namespace fathom::cli
