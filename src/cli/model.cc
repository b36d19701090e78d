// `fathom model`: which models are served, and in which version.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/admin/admin_client.h"
#include "cli/admin/catalog_text.h"
#include "cli/admin/watch.h"
#include "cli/command.h"
#include "cli/status_line.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(300);
constexpr int kLooksBeforeItIsSo = 10;

struct ModelFlags {
  AdminFlags admin;
  bool watch = false;
  bool all = false;
  std::string path, name, pool, replicas = "1", reasoning_parser, tool_parser;
  uint64_t kv_cache_bytes = 0;
  bool replace = false;
  bool no_wait = false;
  std::string model;  // NAME or NAME@VERSION
  std::string route;
  std::vector<std::string> targets;
  int percent = 0;
  bool drop = false;
};

void Say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

const v1::CatalogVersion* FindVersion(const v1::ListCatalogResponse& catalog,
                                      const std::string& model) {
  for (const v1::CatalogVersion& version : catalog.versions()) {
    if (version.model() == model) return &version;
  }
  return nullptr;
}

// Shows how far something is, until `done` says that it is.
template <typename Done>
absl::Status Wait(AdminClient& client, const std::string& model, ShutdownSignal& shutdown,
                  const Done& done) {
  StatusLine line;
  std::string before;
  do {
    const absl::StatusOr<v1::ListCatalogResponse> catalog = client.ListCatalog(/*retired=*/true);
    // A master may restart meanwhile; the work goes on.
    if (absl::IsUnavailable(catalog.status())) continue;
    RETURN_IF_ERROR(catalog.status());
    const v1::CatalogVersion* version = FindVersion(*catalog, model);
    const absl::StatusOr<bool> over = done(version);
    RETURN_IF_ERROR(over.status());
    if (*over) return absl::OkStatus();
    if (version == nullptr) continue;
    std::string now =
        absl::StrCat(model, ": ", version->state(), version->detail().empty() ? "" : ", ",
                     Printable(version->detail()));
    if (now != before) line.Show(now);
    before = std::move(now);
  } while (!shutdown.WaitFor(kPoll));
  return absl::CancelledError("interrupted; the cluster goes on with it");
}

absl::Status WaitReady(AdminClient& client, const std::string& model, ShutdownSignal& shutdown) {
  int failed = 0;
  int retired = 0;
  std::string detail;
  RETURN_IF_ERROR(
      Wait(client, model, shutdown, [&](const v1::CatalogVersion* version) -> absl::StatusOr<bool> {
        if (version == nullptr) return false;  // this master reads the catalogue within a second
        // So it may still say what was so before.
        const bool gone = version->state() == "retired" || version->state() == "unloading";
        retired = gone ? retired + 1 : 0;
        if (retired > kLooksBeforeItIsSo) {
          return absl::AbortedError(absl::StrCat(model, " was unloaded meanwhile"));
        }
        // One that is tried elsewhere at once fails for a moment only.
        failed = version->state() == "failed" ? failed + 1 : 0;
        if (failed > kLooksBeforeItIsSo) {
          return absl::FailedPreconditionError(
              absl::StrCat(model, " failed ", Printable(version->detail()),
                           "; the cluster tries again: fathom model list"));
        }
        detail = Printable(version->detail());
        return version->state() == "ready" && version->replaces() == 0;
      }));
  Say(absl::StrCat(model, " is ready", detail.empty() ? "" : ": ", detail));
  return absl::OkStatus();
}

// A route that waits for versions leads there once they are ready.
absl::Status WaitRoute(AdminClient& client, const std::string& name, ShutdownSignal& shutdown) {
  do {
    const absl::StatusOr<v1::ListCatalogResponse> catalog = client.ListCatalog(/*retired=*/false);
    if (absl::IsUnavailable(catalog.status())) continue;
    RETURN_IF_ERROR(catalog.status());
    for (const v1::RouteStatus& route : catalog->routes()) {
      if (route.name() != name || !route.pending().empty()) continue;
      Say(absl::StrCat(name, " -> ", SharesText(route.targets())));
      return absl::OkStatus();
    }
  } while (!shutdown.WaitFor(kPoll));
  return absl::CancelledError("interrupted; the cluster goes on with it");
}

absl::Status List(const ModelFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  return Show(
      [&]() -> absl::StatusOr<std::string> {
        ASSIGN_OR_RETURN(const v1::ListCatalogResponse response, client.ListCatalog(flags.all));
        return flags.admin.as_json ? ToJson(response) : CatalogText(response);
      },
      flags.watch, shutdown);
}

absl::Status Load(const ModelFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(const int64_t replicas, ParseReplicas(flags.replicas));
  std::error_code error;
  // Where it is not on this machine, it is taken as it stands: masters and workers look for it.
  const std::filesystem::path path = std::filesystem::absolute(flags.path, error);
  v1::LoadModelRequest request;
  request.set_path(error ? flags.path : path.lexically_normal().string());
  request.set_name(flags.name);
  request.set_pool(flags.pool);
  request.set_replicas(replicas);
  request.set_kv_cache_bytes(static_cast<int64_t>(flags.kv_cache_bytes));
  request.set_reasoning_parser(flags.reasoning_parser);
  request.set_tool_parser(flags.tool_parser);
  request.set_replace(flags.replace);
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  ASSIGN_OR_RETURN(const v1::LoadModelResponse made, client.LoadModel(request));
  Say(absl::StrCat(made.model(), " is in the catalogue"));
  return flags.no_wait ? absl::OkStatus() : WaitReady(client, made.model(), shutdown);
}

absl::Status Reload(const ModelFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(const ModelReference model, ParseModel(flags.model));
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  ASSIGN_OR_RETURN(const v1::LoadModelResponse made, client.ReloadModel(model.name, model.version));
  Say(absl::StrCat(made.model(), " takes its place when it is ready"));
  return flags.no_wait ? absl::OkStatus() : WaitReady(client, made.model(), shutdown);
}

absl::Status Unload(const ModelFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(const ModelReference model, ParseModel(flags.model));
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  ASSIGN_OR_RETURN(const v1::ListCatalogResponse before, client.ListCatalog(/*retired=*/false));
  RETURN_IF_ERROR(client.UnloadModel(model.name, model.version));
  Say(absl::StrCat(flags.model, " takes no new requests, and goes when those it has are done"));
  if (flags.no_wait) return absl::OkStatus();
  for (const v1::CatalogVersion& version : before.versions()) {
    const bool meant = version.name() == model.name && version.version() > 0 &&
                       (model.version == 0 || version.version() == model.version);
    if (!meant) continue;
    RETURN_IF_ERROR(Wait(client, version.model(), shutdown,
                         [](const v1::CatalogVersion* now) -> absl::StatusOr<bool> {
                           return now == nullptr || now->state() == "retired";
                         }));
    Say(absl::StrCat(version.model(), " is gone"));
  }
  return absl::OkStatus();
}

absl::Status Alias(const ModelFlags& flags) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  if (flags.drop) {
    if (!flags.targets.empty()) {
      return absl::InvalidArgumentError("--drop goes without targets");
    }
    RETURN_IF_ERROR(client.DropRoute(flags.route));
    Say(absl::StrCat(flags.route, " leads nowhere any more"));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const v1::SetRouteRequest request, RouteOf(flags.route, flags.targets));
  RETURN_IF_ERROR(client.SetRoute(request));
  Say(absl::StrCat(flags.route, " -> ", SharesText(request.targets())));
  return absl::OkStatus();
}

absl::Status Canary(const ModelFlags& flags) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  RETURN_IF_ERROR(client.SetCanary(flags.route, flags.model, flags.percent));
  Say(absl::StrCat(flags.percent, "% of the requests for ", flags.route, " go to ", flags.model));
  return absl::OkStatus();
}

absl::Status Rollback(const ModelFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(AdminClient client, AdminClient::Connect(flags.admin));
  ASSIGN_OR_RETURN(const v1::RollbackRouteResponse response, client.RollbackRoute(flags.route));
  if (response.loading().empty()) {
    Say(absl::StrCat(flags.route, " -> ", SharesText(response.targets())));
    return absl::OkStatus();
  }
  for (const std::string& model : response.loading()) {
    Say(absl::StrCat(model, " had been unloaded; ", flags.route, " leads there when it is ready"));
  }
  if (flags.no_wait) return absl::OkStatus();
  for (const std::string& model : response.loading()) {
    RETURN_IF_ERROR(WaitReady(client, model, shutdown));
  }
  return WaitRoute(client, flags.route, shutdown);
}

CLI::App* AddSub(CLI::App& command, const char* name, const char* what) {
  CLI::App* sub = command.add_subcommand(name, what);
  sub->fallthrough();
  return sub;
}

void AddLoad(CLI::App& command, ModelFlags& flags) {
  command
      .add_option("PATH", flags.path,
                  "Directory in Hugging Face layout, as masters and workers reach it")
      ->required();
  command.add_option("--name", flags.name, "Its name; default the directory's");
  command.add_option("--pool", flags.pool, "Workers that may run it: those with this label `pool`");
  command.add_option("--replicas", flags.replicas, "How many workers are to have it, or `all`")
      ->capture_default_str();
  command
      .add_option("--kv-cache", flags.kv_cache_bytes,
                  "Memory for its KV cache on each worker; default half of its weights")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->type_name("SIZE");
  command.add_option("--reasoning-parser", flags.reasoning_parser,
                     "How it marks its reasoning: think, none or auto");
  command.add_option("--tool-parser", flags.tool_parser,
                     "How it writes tool calls: hermes, none or auto");
  command.add_flag(
      "--replace", flags.replace,
      "It takes the place of the version that serves the name, as soon as it is ready");
}

}  // namespace

void AddModelCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<ModelFlags>();
  CLI::App* command =
      app.add_subcommand("model", "The models that are served: versions, aliases, canaries");
  AddAdminFlags(*command, flags->admin);
  command->require_subcommand(1);

  CLI::App* list =
      AddSub(*command, "list", "Versions, where they are loaded, and where names lead");
  list->add_flag("--watch", flags->watch, "Again every second, until Ctrl-C");
  list->add_flag("--all", flags->all, "Versions that were unloaded too");
  CLI::App* load = AddSub(*command, "load", "Load a new version of a model beside what there is");
  AddLoad(*load, *flags);
  CLI::App* reload = AddSub(*command, "reload",
                            "Read a version again; the new one takes its place when it is ready");
  reload
      ->add_option("MODEL", flags->model,
                   "NAME, which is the version that serves it, or NAME@VERSION")
      ->required();
  CLI::App* unload = AddSub(*command, "unload", "Let a version go, once what it has to do is done");
  unload->add_option("MODEL", flags->model, "NAME@VERSION, or NAME for all its versions")
      ->required();
  CLI::App* alias =
      AddSub(*command, "alias", "Lead requests for a name to a version, or to several");
  alias->add_option("NAME", flags->route, "What requests ask for")->required();
  alias->add_option("TARGET", flags->targets,
                    "NAME@VERSION, or NAME@VERSION=PERCENT for each of several");
  alias->add_flag("--drop", flags->drop, "The name leads nowhere any more");
  CLI::App* canary =
      AddSub(*command, "canary", "Give a version a share of the requests for a name");
  canary->add_option("NAME", flags->route, "What requests ask for")->required();
  canary->add_option("MODEL", flags->model, "NAME@VERSION")->required();
  canary->add_option("PERCENT", flags->percent, "1 to 99")->required();
  CLI::App* rollback =
      AddSub(*command, "rollback", "Lead a name where it led before its last change");
  rollback->add_option("NAME", flags->route, "What requests ask for")->required();
  for (CLI::App* sub : {load, reload, unload, rollback}) {
    sub->add_flag("--no-wait", flags->no_wait,
                  "Return at once; `fathom model list` shows how far it is");
  }

  const auto run = [flags, &context](CLI::App* sub, auto act) {
    sub->callback(
        [flags, act, &context] { context.exit_code = Report(act(*flags, context.shutdown)); });
  };
  run(list, List);
  run(load, Load);
  run(reload, Reload);
  run(unload, Unload);
  run(alias, [](const ModelFlags& f, ShutdownSignal&) { return Alias(f); });
  run(canary, [](const ModelFlags& f, ShutdownSignal&) { return Canary(f); });
  run(rollback, Rollback);
}

}  // namespace fathom::cli
