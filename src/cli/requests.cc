// `fathom requests`: where every request is; `fathom explain`: what has happened to one.

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/admin/admin_client.h"
#include "cli/admin/table.h"
#include "cli/admin/watch.h"
#include "cli/command.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

struct RequestsFlags {
  AdminFlags admin;
  bool watch = false;
  bool all = false;
  int32_t limit = 0;
};

std::string Seconds(double seconds) {
  return seconds < 1 ? absl::StrFormat("%.0fms", seconds * 1e3) : absl::StrFormat("%.1fs", seconds);
}

std::string RequestsTable(const v1::ListRequestsResponse& response) {
  if (response.requests().empty()) return "no requests\n";
  Table table({"REQUEST", "STATE", "MODEL", "TENANT", "WORKER", "PROMPT", "CACHED", "OUTPUT",
               "FIRST", "AGE", "MOVED"});
  for (const v1::RequestStatus& r : response.requests()) {
    table.Add({r.id(), r.state(), Printable(r.model()), Printable(r.tenant()),
               r.worker().empty() ? "-" : Printable(r.worker()), absl::StrCat(r.prompt_tokens()),
               absl::StrCat(r.cached_tokens()), absl::StrCat(r.completion_tokens()),
               r.first_token_seconds() > 0 ? Seconds(r.first_token_seconds()) : "-",
               Seconds(r.age_seconds()), absl::StrCat(r.migrations())});
  }
  return table.Text();
}

absl::Status List(const RequestsFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  return Show(
      [&]() -> absl::StatusOr<std::string> {
        ASSIGN_OR_RETURN(const v1::ListRequestsResponse response,
                         client.ListRequests(flags.all, flags.limit));
        return flags.admin.as_json ? ToJson(response) : RequestsTable(response);
      },
      flags.watch, shutdown);
}

std::string Explanation(const v1::ExplainRequestResponse& response) {
  const v1::RequestStatus& r = response.status();
  std::string text = absl::StrFormat(
      "%s: %s, model %s, tenant %s\n"
      "%d prompt tokens, %d of them cached, %d output tokens; %s in all, first token after %s\n\n",
      r.id(), r.state(), Printable(r.model()), Printable(r.tenant()), r.prompt_tokens(),
      r.cached_tokens(), r.completion_tokens(), Seconds(r.age_seconds()),
      r.first_token_seconds() > 0 ? Seconds(r.first_token_seconds()) : "-");
  Table table({"AT", "AFTER", "WHAT", "WORKER", "DETAIL"});
  double last = 0;
  for (const v1::RequestEvent& event : response.events()) {
    table.Add({absl::StrFormat("%.3f", event.at_seconds()), Seconds(event.at_seconds() - last),
               event.what(), Printable(event.worker()), Printable(event.detail())});
    last = event.at_seconds();
  }
  text += table.Text();
  if (response.dropped_events() > 0) {
    absl::StrAppend(&text, response.dropped_events(), " events in between are not kept\n");
  }
  return text;
}

absl::Status Explain(const AdminFlags& flags, const std::string& id) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags));
  ASSIGN_OR_RETURN(const v1::ExplainRequestResponse response, client.ExplainRequest(id));
  const std::string out = flags.as_json ? ToJson(response) : Explanation(response);
  std::fwrite(out.data(), 1, out.size(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddRequestsCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<RequestsFlags>();
  CLI::App* command = app.add_subcommand("requests", "The requests of a master and where they are");
  AddAdminFlags(*command, flags->admin);
  command->add_flag("--all", flags->all, "Those that ended lately, too");
  command->add_option("--limit", flags->limit, "The newest so many; default 1000")
      ->check(CLI::Range(1, 100'000));
  command->add_flag("--watch", flags->watch, "Again every second, until Ctrl-C");
  command->callback(
      [flags, &context] { context.exit_code = Report(List(*flags, context.shutdown)); });
}

void AddExplainCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<AdminFlags>();
  auto id = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("explain", "Where a request is and where its time went");
  command->add_option("REQUEST_ID", *id, "As `id` or x-request-id of its answer has it")
      ->required();
  AddAdminFlags(*command, *flags);
  command->callback([flags, id, &context] { context.exit_code = Report(Explain(*flags, *id)); });
}

}  // namespace fathom::cli
