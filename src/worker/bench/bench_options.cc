#include "worker/bench/bench_options.h"

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "worker/model/model_shapes.h"

namespace fathom::worker {
namespace {

constexpr int32_t kMaxBatch = 1024;
constexpr int32_t kMaxTokens = 1 << 20;
constexpr int32_t kMaxCellsOfAKind = 16;

std::string ShapeNames() {
  std::string names;
  for (const ModelShape& shape : ModelShapes()) {
    names += names.empty() ? "" : ", ";
    names += shape.name;
  }
  return names;
}

void AddSizes(CLI::App& app, const char* flag, std::vector<int32_t>& sizes, int32_t most,
              const char* what) {
  app.add_option(flag, sizes, what)
      ->delimiter(',')
      ->expected(1, kMaxCellsOfAKind)
      ->check(CLI::Range(1, most))
      ->capture_default_str()
      ->type_name("N,...");
}

}  // namespace

absl::StatusOr<BenchOptions> ParseBenchOptions(int argc, const char* const* argv) {
  BenchOptions options;
  double seconds = absl::ToDoubleSeconds(options.per_cell);
  double limit = absl::ToDoubleSeconds(options.limit);
  CLI::App app{
      "Measures the engine of this machine's CPU: decode against the rate at which memory can be "
      "read, prefill against oneDNN's own matrix products, all in one run",
      "bench engine"};
  auto* model = app.add_option("--model", options.model, "Folder of a model")->type_name("DIR");
  app.add_option("--dummy-weights", options.shape,
                 "Instead: random weights of a known shape (" + ShapeNames() + ")")
      ->type_name("SHAPE")
      ->excludes(model);
  app.add_option("--dtype", options.dtype, "bf16, f32 or auto (as stored)")
      ->check(CLI::IsMember({"bf16", "f32", "auto"}))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0: one a core")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();
  app.add_flag("--batch-invariant", options.batch_invariant,
               "Measure the mode whose results do not depend on the batch");
  AddSizes(app, "--batch", options.batches, kMaxBatch, "Decode: sequences in a step");
  AddSizes(app, "--context", options.contexts, kMaxTokens, "Decode: tokens before the step");
  AddSizes(app, "--prompt", options.prompts, kMaxTokens, "Prefill: tokens of the prompt");
  app.add_option("--seconds", seconds, "Time for each cell of the tables")
      ->check(CLI::Range(0.01, 600.0))
      ->capture_default_str();
  app.add_option("--limit", limit, "Seconds in all; cells beyond are left out")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_option("--json", options.json_path, "Also write the result there")->type_name("FILE");
  app.add_flag("--exit-with-parent", options.exit_with_parent,
               "End with the process that started this one");
  try {
    app.parse(argc, argv);
    if (options.model.empty() == options.shape.empty()) {
      throw CLI::RequiredError("--model DIR or --dummy-weights SHAPE");
    }
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) == 0) return absl::CancelledError("printed");
    return absl::InvalidArgumentError("wrong usage");
  }
  options.per_cell = absl::Seconds(seconds);
  options.limit = absl::Seconds(limit);
  return options;
}

}  // namespace fathom::worker
