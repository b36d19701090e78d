// `fathom masters`: the masters of a cluster, how they fare, and which of them leads.

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/admin/admin_client.h"
#include "cli/admin/age.h"
#include "cli/admin/table.h"
#include "cli/admin/watch.h"
#include "cli/command.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

struct MastersFlags {
  AdminFlags admin;
  bool watch = false;
};

std::string MastersTable(const v1::ListMastersResponse& response) {
  Table table({"MASTER", "LEADS", "LINK", "WORKERS", "IN FLIGHT", "QUEUED", "TOKENS/S", "UP",
               "SEEN", "BUILD"});
  for (const v1::MasterStatus& m : response.masters()) {
    table.Add({absl::StrCat(Printable(m.id()), m.self() ? " (asked)" : ""),
               m.leader() ? absl::StrCat("epoch ", response.epoch()) : "-",
               m.link_address().empty() ? "-" : Printable(m.link_address()),
               absl::StrCat(m.workers()), absl::StrCat(m.in_flight()), absl::StrCat(m.queued()),
               absl::StrFormat("%.0f", m.tokens_per_second()), Age(m.up_seconds()),
               Age(m.age_seconds()), Printable(m.build())});
  }
  std::string text = response.masters().empty() ? "no master is known yet\n" : table.Text();
  for (const v1::MasterStatus& m : response.masters()) {
    if (!m.conflict().empty()) absl::StrAppend(&text, "conflict: ", Printable(m.conflict()), "\n");
  }
  if (!response.database_up()) {
    absl::StrAppend(&text, "the database (", Printable(response.database()),
                    ") does not answer; this is what it said last\n");
  }
  return text;
}

absl::Status List(const MastersFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  return Show(
      [&]() -> absl::StatusOr<std::string> {
        ASSIGN_OR_RETURN(const v1::ListMastersResponse response, client.ListMasters());
        return flags.admin.as_json ? ToJson(response) : MastersTable(response);
      },
      flags.watch, shutdown);
}

}  // namespace

void AddMastersCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<MastersFlags>();
  CLI::App* command =
      app.add_subcommand("masters", "The masters of a cluster and which of them leads");
  AddAdminFlags(*command, flags->admin);
  command->add_flag("--watch", flags->watch, "Again every second, until Ctrl-C");
  command->callback(
      [flags, &context] { context.exit_code = Report(List(*flags, context.shutdown)); });
}

}  // namespace fathom::cli
