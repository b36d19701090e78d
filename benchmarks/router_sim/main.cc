// Compares the router with other policies on generated traces, in virtual time:
//
//   fathom-router-sim [--trace NAME]... [--policy NAME]... [--seed N]... [--load X]... [--json
//   FILE]
//
// All traces and policies, three seeds and two loads by default. At a load of 1 every policy that
// looks at load keeps up.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "benchmarks/router_sim/policy.h"
#include "benchmarks/router_sim/simulation.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::router_sim {
namespace {

struct Flags {
  std::vector<std::string> traces{"chat", "rag", "agent"};
  std::vector<std::string> policies{std::begin(kPolicies), std::end(kPolicies)};
  std::vector<uint64_t> seeds{101, 102, 103};
  std::vector<double> loads{1, 2};
  int workers = 16;
  double duration_s = 100;
  std::string time_model = "h200-8b";
  // What an H200 has beside the weights of an 8B model in BF16: 123 GB in blocks of 16 tokens.
  int blocks = 58'000;
  std::string json;
};

// Sessions a second and worker.
const std::map<std::string, double>& UsualRates() {
  static const std::map<std::string, double> kRates{{"chat", 3}, {"rag", 1.5}, {"agent", 0.2}};
  return kRates;
}

struct Row {
  std::string trace;
  std::string policy;
  double load = 0;
  uint64_t seed = 0;
  SimulationResult result;
};

std::string Json(const Row& row) {
  const SimulationResult& r = row.result;
  return absl::StrFormat(
      R"(  {"trace": "%s", "policy": "%s", "load": %g, "seed": %d, "requests": %d, "prompt_tokens": %d, )"
      R"("cached_tokens": %d, "best_tokens": %d, "predicted_tokens": %d, "ttft_p50_s": %.6f, )"
      R"("ttft_p99_s": %.6f, "ttft_mean_s": %.6f, "tpot_mean_s": %.6f, "imbalance": %.4f, "utilization": %.4f})",
      row.trace, row.policy, row.load, row.seed, r.requests, r.prompt_tokens, r.cached_tokens,
      r.best_tokens, r.predicted_tokens, r.ttft_p50_s, r.ttft_p99_s, r.ttft_mean_s, r.tpot_mean_s,
      r.imbalance, r.utilization);
}

void Print(const Row& row) {
  const SimulationResult& r = row.result;
  const double prompt = static_cast<double>(std::max<int64_t>(r.prompt_tokens, 1));
  std::printf(
      "%-6s %4.2f %4d  %-16s %7d  %5.1f %%  %5.1f %%  %6.3f  %8.1f  %8.1f  %7.2f  %5.2f  %4.0f "
      "%%\n",
      row.trace.c_str(), row.load, static_cast<int>(row.seed), row.policy.c_str(),
      static_cast<int>(r.requests), 100 * static_cast<double>(r.cached_tokens) / prompt,
      100 * static_cast<double>(r.best_tokens) / prompt,
      static_cast<double>(r.cached_tokens) /
          static_cast<double>(std::max<int64_t>(r.best_tokens, 1)),
      1e3 * r.ttft_p50_s, 1e3 * r.ttft_p99_s, 1e3 * r.tpot_mean_s, r.imbalance,
      100 * r.utilization);
  std::fflush(stdout);
}

absl::Status Run(const Flags& flags) {
  SimulationOptions options;
  options.num_workers = static_cast<size_t>(flags.workers);
  ASSIGN_OR_RETURN(options.shape.time, worker::ParseTimeModel(flags.time_model));
  options.shape.num_blocks = flags.blocks;
  options.warm_up_s = flags.duration_s / 4;
  options.end_s = flags.duration_s;
  std::printf("%-6s %4s %4s  %-16s %7s  %7s  %7s  %6s  %8s  %8s  %7s  %5s  %6s\n", "trace", "load",
              "seed", "policy", "asked", "hits", "best", "ratio", "p50 ms", "p99 ms", "tpot ms",
              "imbal", "busy");
  std::vector<std::string> rows;
  for (const std::string& trace_name : flags.traces) {
    const auto rate = UsualRates().find(trace_name);
    if (rate == UsualRates().end()) return absl::InvalidArgumentError("no such trace");
    for (const double load : flags.loads) {
      for (const uint64_t seed : flags.seeds) {
        ASSIGN_OR_RETURN(
            const Trace trace,
            MakeTrace(trace_name, load * rate->second * flags.workers, flags.duration_s, seed));
        options.seed = seed;
        for (const std::string& policy : flags.policies) {
          Row row{trace_name, policy, load, seed, {}};
          ASSIGN_OR_RETURN(row.result, Simulate(trace, policy, options));
          Print(row);
          rows.push_back(Json(row));
        }
      }
    }
  }
  if (flags.json.empty()) return absl::OkStatus();
  return WriteFileAtomically(flags.json, absl::StrCat("[\n", absl::StrJoin(rows, ",\n"), "\n]\n"));
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Compares routing policies in virtual time.");
  app.add_option("--trace", flags.traces, "chat, rag, agent");
  app.add_option("--policy", flags.policies, "router and those it is compared with");
  app.add_option("--seed", flags.seeds, "of trace and draws");
  app.add_option("--load", flags.loads, "times the trace's usual rate of sessions");
  app.add_option("--workers", flags.workers)->check(CLI::Range(1, 1000));
  app.add_option("--duration", flags.duration_s, "virtual seconds; the first quarter is warm-up");
  app.add_option("--time-model", flags.time_model, "of a step, as for fathom-sim-worker");
  app.add_option("--blocks", flags.blocks, "KV blocks of a worker")
      ->check(CLI::Range(1, 10'000'000));
  app.add_option("--json", flags.json, "where the figures go");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "fathom-router-sim: %s\n", std::string(Message(status)).c_str());
  return 1;
}

}  // namespace
}  // namespace fathom::router_sim

int main(int argc, char** argv) { return fathom::router_sim::Main(argc, argv); }
