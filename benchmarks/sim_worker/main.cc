// A worker without a device: `fathom-sim-worker --time-model h200-8b` and the flags of
// fathom-worker.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "benchmarks/sim_worker/sim_device.h"
#include "common/strings.h"
#include "worker/command_line.h"
#include "worker/run.h"

namespace fathom::worker {
namespace {

int Main(int argc, char** argv) {
  std::string name = "free";
  CLI::App app;
  app.set_help_flag();  // fathom-worker's own
  app.allow_extras();
  app.add_option("--time-model", name);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const absl::StatusOr<TimeModel> time = ParseTimeModel(name);
  if (!time.ok()) {
    std::fprintf(stderr, "fathom-sim-worker: %s\n", std::string(Message(time.status())).c_str());
    return kExitUsage;
  }
  const std::vector<std::string> rest = app.remaining();
  std::vector<const char*> arguments{argv[0]};
  for (const std::string& argument : rest) arguments.push_back(argument.c_str());
  return RunWorker(static_cast<int>(arguments.size()), arguments.data(), MakeSimDevice(*time));
}

}  // namespace
}  // namespace fathom::worker

int main(int argc, char** argv) { return fathom::worker::Main(argc, argv); }
