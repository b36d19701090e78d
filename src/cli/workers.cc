// `fathom workers`: who runs the models, and how they fare; `fathom workers drain` lets one go.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/admin/admin_client.h"
#include "cli/admin/age.h"
#include "cli/admin/table.h"
#include "cli/admin/watch.h"
#include "cli/command.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

struct WorkersFlags {
  AdminFlags admin;
  bool watch = false;
  std::string drain;
};

std::string WorkersTable(const v1::ListWorkersResponse& response) {
  if (response.workers().empty()) return "no worker is linked\n";
  Table table({"WORKER", "STATE", "POOL", "DEVICE", "MODELS", "RUNNING", "WAITING", "KV",
               "TOKENS/S", "OURS", "LINKED", "BUILD"});
  for (const v1::WorkerStatus& w : response.workers()) {
    const auto pool = w.labels().find("pool");
    table.Add({Printable(w.id()), w.state(),
               pool == w.labels().end() ? "-" : Printable(pool->second), Printable(w.device()),
               Printable(absl::StrJoin(w.models(), ",")), absl::StrCat(w.running()),
               absl::StrCat(w.waiting()), absl::StrFormat("%.0f%%", w.saturation() * 100),
               absl::StrFormat("%.0f", w.tokens_per_second()), absl::StrCat(w.in_flight()),
               Age(w.linked_seconds()), Printable(w.build())});
  }
  return table.Text();
}

absl::Status List(const WorkersFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  return Show(
      [&]() -> absl::StatusOr<std::string> {
        ASSIGN_OR_RETURN(const v1::ListWorkersResponse response, client.ListWorkers());
        return flags.admin.as_json ? ToJson(response) : WorkersTable(response);
      },
      flags.watch, shutdown);
}

absl::Status Drain(const WorkersFlags& flags) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  RETURN_IF_ERROR(client.DrainWorker(flags.drain));
  std::printf("%s takes no new work and leaves when what it runs has ended or gone elsewhere\n",
              flags.drain.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddWorkersCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<WorkersFlags>();
  CLI::App* command = app.add_subcommand("workers", "The workers of a master and how they fare");
  AddAdminFlags(*command, flags->admin);
  command->add_flag("--watch", flags->watch, "Again every second, until Ctrl-C");
  CLI::App* drain = command->add_subcommand(
      "drain", "Let a worker go: it takes no new work, ends what it runs, and exits");
  drain->add_option("ID", flags->drain, "The worker")->required();
  drain->fallthrough();
  command->require_subcommand(0, 1);
  command->callback([flags, drain, &context] {
    context.exit_code = Report(drain->parsed() ? Drain(*flags) : List(*flags, context.shutdown));
  });
}

}  // namespace fathom::cli
