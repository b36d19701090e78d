// `fathom bench serve`: load on a server, and how it bears it.

#include <sys/resource.h>

#include <boost/json.hpp>
#include <cstdio>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "cli/bench.h"
#include "cli/chat_client.h"
#include "cli/load/arrivals.h"
#include "cli/load/grpc_transport.h"
#include "cli/load/http_transport.h"
#include "cli/load/report.h"
#include "cli/load/runner.h"
#include "cli/server.h"
#include "cli/terminal.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

constexpr size_t kRecordsBytesMax = size_t{1} << 30;
constexpr int64_t kRequestsMax = 10'000'000;
constexpr int64_t kRequestsDefault = 100;
constexpr int32_t kConcurrencyDefault = 16;

struct ServeFlags {
  ServerFlags server;
  std::string protocol = "openai-chat";
  int64_t requests = 0;
  double duration_s = 0;
  int32_t concurrency = 0;
  double request_rate = 0;
  double burstiness = 1;
  std::string input_len = "128";
  std::string output_len = "128";
  int32_t prefix_len = 0;
  int32_t num_prefixes = 1;
  std::string dataset;
  std::string trace;
  uint64_t seed = 0;
  bool ignore_eos = false;
  bool unary = false;
  int64_t warmup = 0;
  std::string goodput;
  bool check_simulated = false;
  int threads = 1;
  double timeout_s = 600;
  std::string json_path;
};

template <typename T>
absl::StatusOr<T> Named(std::string_view name, absl::StatusOr<T> parsed) {
  if (parsed.ok()) return parsed;
  return absl::InvalidArgumentError(absl::StrCat(ToAbsl(name), ": ", parsed.status().message()));
}

absl::StatusOr<Workload> MakeWorkload(const ServeFlags& flags) {
  WorkloadOptions options{.prefix_len = flags.prefix_len,
                          .num_prefixes = flags.num_prefixes,
                          .text = flags.protocol == "openai-chat",
                          .seed = flags.seed};
  ASSIGN_OR_RETURN(options.input, Named("--input-len", ParseLengthRange(flags.input_len)));
  ASSIGN_OR_RETURN(options.output, Named("--output-len", ParseLengthRange(flags.output_len)));
  if (!flags.dataset.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.dataset, kRecordsBytesMax));
    ASSIGN_OR_RETURN(options.dataset, Named(flags.dataset, ParseDataset(text)));
  }
  if (!flags.trace.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.trace, kRecordsBytesMax));
    ASSIGN_OR_RETURN(options.trace, Named(flags.trace, ParseTrace(text)));
  }
  return Workload(std::move(options));
}

RunnerOptions MakeRunnerOptions(const ServeFlags& flags, const Workload& workload) {
  RunnerOptions options{.requests = flags.requests,
                        .duration = absl::Seconds(flags.duration_s),
                        .concurrency = flags.concurrency,
                        .warmup = flags.warmup};
  const bool endless = flags.requests == 0 && flags.duration_s == 0;
  if (!flags.trace.empty()) {
    const auto entries = static_cast<int64_t>(workload.trace().size());
    options.requests = flags.requests == 0 ? entries : std::min(flags.requests, entries);
    options.next_arrival = [&workload, next = size_t{0}]() mutable {
      const std::vector<TraceEntry>& trace = workload.trace();
      return absl::Milliseconds(trace[next++ % trace.size()].at_ms);
    };
    return options;
  }
  if (endless) options.requests = kRequestsDefault;
  if (flags.request_rate > 0) {
    options.next_arrival = [arrivals = Arrivals(flags.request_rate, flags.burstiness,
                                                flags.seed)]() mutable { return arrivals.Next(); };
  } else if (flags.concurrency == 0) {
    options.concurrency = kConcurrencyDefault;
  }
  return options;
}

absl::StatusOr<std::unique_ptr<LoadTransport>> Connect(const ServeFlags& flags, Server& server) {
  RequestOptions request{.ignore_eos = flags.ignore_eos,
                         .unary = flags.unary,
                         .check_simulated = flags.check_simulated};
  if (flags.protocol == "grpc") {
    request.model = server.model;  // empty: the one that is served
    return MakeGrpcTransport(server.grpc_address, server.key, request);
  }
  if (server.model.empty()) {
    HttpClient client(server.url, {.key = server.key});
    ASSIGN_OR_RETURN(server.model, FirstModel(client));
  }
  request.model = server.model;
  return MakeHttpTransport({.url = server.url,
                            .key = server.key,
                            .request = request,
                            .as_chat = flags.protocol == "openai-chat",
                            .threads = flags.threads,
                            .timeout = absl::Seconds(flags.timeout_s)});
}

// A stream is a file descriptor.
void AllowManyStreams() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string SetupJson(const ServeFlags& flags, const Server& server, const RunnerOptions& runner) {
  boost::json::object setup = {
      {"server", flags.protocol == "grpc" ? server.grpc_address : server.url.authority()},
      {"protocol", flags.protocol},
      {"model", server.model},
      {"loop", runner.next_arrival ? "open" : "closed"},
      {"concurrency", runner.concurrency},
      {"requests", runner.requests},
      {"duration_s", flags.duration_s},
      {"seed", flags.seed},
      {"ignore_eos", flags.ignore_eos},
      {"unary", flags.unary},
      {"warmup", flags.warmup}};
  if (!flags.trace.empty()) {
    setup["trace"] = flags.trace;
  } else {
    if (flags.request_rate > 0) {
      // JSON has no infinity.
      setup["request_rate"] = absl::StrCat(flags.request_rate);
      setup["burstiness"] = flags.burstiness;
    }
    setup["output_len"] = flags.output_len;
  }
  if (!flags.dataset.empty()) setup["dataset"] = flags.dataset;
  if (flags.trace.empty() && flags.dataset.empty()) {
    setup["input_len"] = flags.input_len;
    setup["prefix_len"] = flags.prefix_len;
    setup["num_prefixes"] = flags.num_prefixes;
  }
  return boost::json::serialize(setup);
}

absl::Status Judge(const LoadOutcome& outcome) {
  if (outcome.interrupted) return absl::CancelledError("interrupted");
  const Tally& tally = outcome.tally;
  if (tally.failed() == 0) return absl::OkStatus();
  return absl::Status(tally.ok() == 0 ? tally.first_error().code() : absl::StatusCode::kInternal,
                      absl::StrCat(tally.failed(), " of ", tally.ok() + tally.failed(),
                                   " requests failed: ", tally.first_error().message()));
}

absl::Status Run(const ServeFlags& flags, ShutdownSignal& shutdown) {
  if (flags.unary && flags.protocol == "grpc") {
    return absl::InvalidArgumentError("--unary: our gRPC API knows streams only");
  }
  Goodput goodput;
  if (!flags.goodput.empty()) {
    ASSIGN_OR_RETURN(goodput, Named("--goodput", ParseGoodput(flags.goodput)));
  }
  ASSIGN_OR_RETURN(const Workload workload, MakeWorkload(flags));
  const RunnerOptions options = MakeRunnerOptions(flags, workload);
  ASSIGN_OR_RETURN(Server server, FindServer(flags.server));
  AllowManyStreams();
  ASSIGN_OR_RETURN(const std::unique_ptr<LoadTransport> transport, Connect(flags, server));

  const bool draw = StderrIsTerminal();
  const auto on_progress = [&](const LoadProgress& progress) {
    if (!draw) return;
    const std::string line = LoadProgressLine(progress, options.requests);
    std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  };
  const LoadOutcome outcome =
      RunLoad(workload, options, goodput, *transport, *Clock::Real(), shutdown, on_progress);
  if (draw) std::fputs("\n", stderr);
  std::fputs(LoadTable(outcome).c_str(), stdout);
  std::fflush(stdout);
  if (!flags.json_path.empty()) {
    RETURN_IF_ERROR(
        WriteFileAtomically(flags.json_path, LoadJson(outcome, SetupJson(flags, server, options))));
  }
  return Judge(outcome);
}

void AddLoadFlags(CLI::App& command, ServeFlags& flags) {
  command
      .add_option("--requests", flags.requests,
                  "Requests in all; default 100, or one for every line of --trace")
      ->check(CLI::Range(int64_t{1}, kRequestsMax));
  command
      .add_option("--duration", flags.duration_s,
                  "Send for so many seconds instead; what runs then is waited for")
      ->check(CLI::Range(0.001, 1e6))
      ->type_name("SECONDS");
  command
      .add_option("--concurrency", flags.concurrency,
                  "Closed loop: requests at once, default 16. Open loop: at most so many at once")
      ->check(CLI::Range(1, 65536));
  CLI::Option* const rate =
      command
          .add_option("--request-rate", flags.request_rate,
                      "Open loop: requests a second; inf sends all at once. Latencies count from "
                      "the time a request was due")
          ->check(CLI::Range(1e-6, std::numeric_limits<double>::infinity()))
          ->type_name("RATE");
  command
      .add_option("--burstiness", flags.burstiness,
                  "Shape of the gamma distribution of gaps: 1 is Poisson, less is burstier")
      ->capture_default_str()
      ->check(CLI::Range(1e-3, 1e6))
      ->needs(rate);
  CLI::Option* const trace =
      command
          .add_option("--trace", flags.trace,
                      "Open loop by a trace, JSON Lines: timestamp (ms), input_length, "
                      "output_length, hash_ids")
          ->type_name("FILE")
          ->excludes(rate);
  command
      .add_option("--dataset", flags.dataset,
                  "Prompts, JSON Lines: messages or prompt; output_length or max_tokens")
      ->type_name("FILE")
      ->excludes(trace);
  command.add_option("--warmup", flags.warmup, "Requests before the start that do not count")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, kRequestsMax));
}

void AddPromptFlags(CLI::App& command, ServeFlags& flags) {
  command
      .add_option("--input-len", flags.input_len,
                  "Tokens of random prompts, N or LOW:HIGH; about so many where the protocol is "
                  "openai-chat")
      ->capture_default_str()
      ->type_name("LENGTH");
  command
      .add_option("--output-len", flags.output_len, "Tokens of an answer at most, N or LOW:HIGH")
      ->capture_default_str()
      ->type_name("LENGTH");
  command
      .add_option("--prefix-len", flags.prefix_len,
                  "Tokens that random prompts share, before those of --input-len")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  command.add_option("--num-prefixes", flags.num_prefixes, "How many such prefixes there are")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--seed", flags.seed, "Same seed, same prompts and arrivals")
      ->capture_default_str();
  command.add_flag("--ignore-eos", flags.ignore_eos, "Answers are as long as they may be");
}

}  // namespace

void AddBenchServeCommand(CLI::App& bench, CommandContext& context) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = bench.add_subcommand("serve",
                                           "Put load on a server and report throughput and "
                                           "latencies. Exits with 1 when a request failed");
  AddServerFlags(*command, flags->server);
  command->add_option("--protocol", flags->protocol, "What to speak; --url is host:port for grpc")
      ->capture_default_str()
      ->check(CLI::IsMember({"openai-chat", "openai", "grpc"}));
  AddLoadFlags(*command, *flags);
  AddPromptFlags(*command, *flags);
  command
      ->add_option("--goodput", flags->goodput,
                   "Also count answers within limits in ms: ttft:MS,itl:MS,e2e:MS; itl is the mean "
                   "gap between an answer's tokens")
      ->type_name("LIMITS");
  command->add_option("--timeout", flags->timeout_s, "Seconds a request may take over HTTP")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e6));
  command->add_option("--threads", flags->threads, "Threads of the HTTP client")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command->add_flag("--unary", flags->unary,
                    "OpenAI protocols: whole answers instead of streams; TTFT is then E2E");
  command->add_flag("--check-simulated", flags->check_simulated,
                    "The workers are fathom-sim-worker: check every token of every answer");
  command->add_option("--json", flags->json_path, "Also write the result there")->type_name("FILE");
  command->callback(
      [flags, &context] { context.exit_code = Report(Run(*flags, context.shutdown)); });
}

}  // namespace fathom::cli
