#include "worker/run.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "common/logging.h"
#include "common/shutdown.h"
#include "common/strings.h"
#include "worker/command_line.h"
#include "worker/parent_tie.h"
#include "worker/worker.h"

namespace fathom::worker {
namespace {

// How long a dying worker gives its last heartbeat to leave.
constexpr absl::Duration kLastWords = absl::Milliseconds(100);
constexpr absl::Duration kWatchWhileStarting = absl::Milliseconds(2);
constexpr absl::Duration kWatch = absl::Milliseconds(100);
constexpr int kLateLooksMax = 5;

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] != 0 ? name.data() : "worker";
}

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int Fail(const absl::Status& status, ExitCode code) {
  std::fprintf(stderr, "fathom-worker: %s\n", std::string(Message(status)).c_str());
  return code;
}

// Until shutdown is asked for; an error when the engine has died.
absl::Status Watch(Worker& worker, ShutdownSignal& shutdown, int64_t start_ns) {
  bool was_ready = false;
  int late = 0;
  while (!shutdown.WaitFor(was_ready ? kWatch : kWatchWhileStarting)) {
    absl::Status health = worker.Health();
    // A process that was stopped and goes on finds its engine late at first.
    late = absl::IsDeadlineExceeded(health) ? late + 1 : 0;
    if (!health.ok() && (late == 0 || late > kLateLooksMax)) return health;
    if (!was_ready && worker.Ready().ok()) {
      was_ready = true;
      const int64_t took_ns = Clock::Real()->MonotonicNs() - start_ns;
      LogInfo("worker", "ready",
              {{"event.duration", took_ns}, {"labels.milliseconds", took_ns / 1'000'000}});
    }
  }
  return absl::OkStatus();
}

}  // namespace

int RunWorker(int argc, const char* const* argv, const Device& device) {
  const int64_t start_ns = Clock::Real()->MonotonicNs();
  ShutdownSignal shutdown;
  const auto line = ParseCommandLine(argc, argv, FromEnvironment("MASTER_NODE"), HostName());
  if (absl::IsCancelled(line.status())) return kExitOk;
  if (absl::IsInvalidArgument(line.status())) return Fail(line.status(), kExitUsage);
  if (!line.ok()) return Fail(line.status(), kExitConfig);
  if (line->dump_config) {
    std::fputs(DumpConfig(line->config).c_str(), stdout);
    return kExitOk;
  }
  const config::Worker& config = line->config.worker();
  if (config.exit_with_parent() && !TieToParent()) return kExitOk;
  const absl::Status logging = InitLogging({.level = line->config.logging().level(),
                                            .json = line->config.logging().format() == "json",
                                            .service = "fathom-worker",
                                            .node = config.id()});
  if (!logging.ok()) return Fail(logging, kExitConfig);

  auto worker = Worker::Start(config, Clock::Real(), Random::Real(), device);
  if (!worker.ok()) {
    LogError("worker", "cannot start", {{"error.message", std::string(Message(worker.status()))}});
    return ExitCodeOf(worker.status());
  }
  const absl::Status end = Watch(**worker, shutdown, start_ns);
  if (!end.ok()) {
    LogError("worker", "exiting", {{"error.message", std::string(Message(end))}});
    absl::SleepFor(kLastWords);
    // A thread that hangs in the device cannot be joined.
    std::_Exit(kExitInternal);
  }
  LogInfo("worker", "draining");
  const int asked = shutdown.count();
  (*worker)->Drain(absl::Seconds(config.drain_seconds()), [&](absl::Duration wait) {
    absl::SleepFor(wait);
    return shutdown.count() > asked;
  });
  worker->reset();
  LogInfo("worker", "stopped");
  return kExitOk;
}

}  // namespace fathom::worker
