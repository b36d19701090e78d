#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "cli/cluster/local_cluster.h"
#include "cli/command.h"
#include "cli/eval/examples.h"
#include "cli/eval/grade.h"
#include "cli/eval/report.h"
#include "cli/exit_codes.h"
#include "cli/server.h"
#include "cli/terminal.h"
#include "common/files.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr size_t kDataBytesMax = size_t{1} << 30;
constexpr absl::Duration kDrainLimit = absl::Seconds(10);

struct EvalFlags {
  ServerFlags server;
  std::string data;
  std::string json_path;
  int concurrency = 16;
  size_t limit = 0;
  double min = 0;
};

// A cluster for this run alone, in a folder that goes with it.
class OwnCluster {
 public:
  static absl::StatusOr<std::unique_ptr<OwnCluster>> Start(ShutdownSignal& shutdown) {
    std::string folder = (std::filesystem::temp_directory_path() / "fathom-eval-XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, folder);
    std::unique_ptr<OwnCluster> own(new OwnCluster(folder, shutdown));
    ASSIGN_OR_RETURN(const StateDir state, StateDir::Open(folder));
    ClusterOptions options;
    options.open = true;
    ASSIGN_OR_RETURN(own->cluster_, LocalCluster::Start(options, state, shutdown));
    return own;
  }
  ~OwnCluster() {
    if (cluster_) cluster_->Drain(shutdown_, kDrainLimit);
    cluster_.reset();
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }
  absl::StatusOr<Server> server() const {
    Server server;
    ASSIGN_OR_RETURN(server.url, ParseUrl(cluster_->info().http_url));
    server.model = cluster_->info().model;
    return server;
  }

 private:
  OwnCluster(std::string folder, ShutdownSignal& shutdown)
      : folder_(std::move(folder)), shutdown_(shutdown) {}
  const std::string folder_;
  ShutdownSignal& shutdown_;
  std::unique_ptr<LocalCluster> cluster_;
};

absl::Status Run(const EvalFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.data, kDataBytesMax));
  absl::StatusOr<std::vector<Example>> parsed = ParseExamples(text);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(flags.data, ": ", parsed.status().message()));
  }
  const std::vector<Example> examples = TakeEvenly(*std::move(parsed), flags.limit);

  absl::StatusOr<Server> server = FindServer(flags.server);
  std::unique_ptr<OwnCluster> own;
  if (flags.server.url.empty() && absl::IsUnavailable(server.status())) {
    std::fprintf(stderr, "fathom: no cluster runs; starting one for this run\n");
    ASSIGN_OR_RETURN(own, OwnCluster::Start(shutdown));
    server = own->server();
  }
  RETURN_IF_ERROR(server.status());

  const Clock& clock = *Clock::Real();
  const absl::Duration start = clock.Monotonic();
  const bool draw = StderrIsTerminal();
  const auto on_progress = [&](const GradeProgress& progress) {
    if (!draw) return;
    const std::string line = ProgressLine(progress, clock.Monotonic() - start);
    std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  };
  ASSIGN_OR_RETURN(const Grades grades,
                   Grade(*server, examples, flags.concurrency, clock, shutdown, on_progress));
  if (draw) std::fputs("\n", stderr);

  std::fputs(GradesTable(grades).c_str(), stdout);
  std::fflush(stdout);
  if (!flags.json_path.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(flags.json_path, GradesJson(grades, flags.data)));
  }
  if (grades.interrupted) return absl::CancelledError("interrupted");
  const TaskScore total = grades.total();
  if (total.errors > 0) {
    return absl::Status(
        total.errors == total.count ? grades.first_error.code() : absl::StatusCode::kInternal,
        absl::StrCat(total.errors, " of ", total.count,
                     " requests failed: ", grades.first_error.message()));
  }
  if (grades.exact_match() < flags.min) {
    return absl::FailedPreconditionError(
        absl::StrCat("exact_match ", grades.exact_match(), " is below --min ", flags.min));
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      app.add_subcommand("eval",
                         "Grade a model by exact match. Without --url it asks the local cluster, "
                         "or starts one for the "
                         "run. Exits with 1 when a request failed or the result is below --min");
  command->add_option("--data", flags->data, "Examples, one JSON object a line")
      ->required()
      ->type_name("FILE");
  AddServerFlags(*command, flags->server);
  command->add_option("--concurrency", flags->concurrency, "Requests at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--limit", flags->limit, "Ask so many only, evenly over the tasks");
  command->add_option("--min", flags->min, "Fail below this exact_match")
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--json", flags->json_path, "Also write the result there")->type_name("FILE");
  command->callback(
      [flags, &context] { context.exit_code = Report(Run(*flags, context.shutdown)); });
}

}  // namespace fathom::cli
