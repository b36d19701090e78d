#include "worker/run.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "common/crash_watch.h"
#include "common/lock_order.h"
#include "common/logging.h"
#include "common/periodic.h"
#include "common/shutdown.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/tls/link_credentials.h"
#include "worker/command_line.h"
#include "worker/parent_tie.h"
#include "worker/worker.h"

namespace fathom::worker {
namespace {

// How long a dying worker gives its last heartbeat to leave.
constexpr absl::Duration kLastWords = absl::Milliseconds(100);
// What an end at once gives its log, whose reader may stand still.
constexpr absl::Duration kLastLines = absl::Seconds(1);
constexpr absl::Duration kWatchWhileStarting = absl::Milliseconds(2);
constexpr absl::Duration kWatch = absl::Milliseconds(100);
// A process that was stopped and goes on finds its engine late at first.
constexpr absl::Duration kLateMax = absl::Milliseconds(500);
// For the device's memory to be given back, once nothing runs on it.
constexpr absl::Duration kReleaseMax = absl::Seconds(20);

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] != 0 ? name.data() : "worker";
}

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int Fail(const LogOptions& log, const absl::Status& status, ExitCode code) {
  LogCannotStart(log, "worker", status);
  return code;
}

// Looks at a worker now and then, and tells a late engine from a dead one.
class HealthWatch {
 public:
  explicit HealthWatch(const Worker& worker) : worker_(worker) {}

  // An error: the worker cannot go on.
  absl::Status Look() {
    absl::Status health = worker_.Health();
    if (!absl::IsDeadlineExceeded(health)) {
      late_since_.reset();
      return health;
    }
    const absl::Duration now = Clock::Real()->Monotonic();
    if (!late_since_) late_since_ = now;
    return now - *late_since_ > kLateMax ? health : absl::OkStatus();
  }

 private:
  const Worker& worker_;
  std::optional<absl::Duration> late_since_;
};

// Until the worker is asked to go, by a signal or a master; an error when the engine has died.
absl::Status Watch(Worker& worker, ShutdownSignal& shutdown, int64_t start_ns) {
  bool was_ready = false;
  HealthWatch watch(worker);
  while (!shutdown.WaitFor(was_ready ? kWatch : kWatchWhileStarting) && !worker.leave_asked()) {
    RETURN_IF_ERROR(watch.Look());
    if (!was_ready && worker.Ready().ok()) {
      was_ready = true;
      const int64_t took_ns = Clock::Real()->MonotonicNs() - start_ns;
      LogInfo("worker", "ready",
              {{"event.duration", took_ns}, {"labels.milliseconds", took_ns / 1'000'000}});
    }
  }
  return absl::OkStatus();
}

// Running work ends first, unless a second signal comes; an error when the engine has died.
absl::Status Drain(Worker& worker, ShutdownSignal& shutdown, absl::Duration limit) {
  const int asked = shutdown.count();
  HealthWatch watch(worker);
  absl::Status health;
  worker.Drain(limit, [&](absl::Duration wait) {
    absl::SleepFor(wait);
    health = watch.Look();
    return !health.ok() || shutdown.count() > asked;
  });
  return health;
}

// A thread that hangs in the device cannot be joined, so nothing is.
[[noreturn]] void ExitDead(const absl::Status& reason) {
  LogError("worker", "exiting", {{"error.message", std::string(Message(reason))}});
  absl::SleepFor(kLastWords);
  FlushLogs(kLastLines);
  std::_Exit(kExitInternal);
}

void Stop(std::unique_ptr<Worker> worker) {
  {
    HealthWatch watch(*worker);
    const Periodic looking(kWatch, [&watch] {
      if (const absl::Status health = watch.Look(); !health.ok()) ExitDead(health);
    });
    worker->Stop();
  }
  const Periodic limit(kReleaseMax, [] {
    ExitDead(absl::DeadlineExceededError("the device does not give its memory back"));
  });
  worker.reset();
}

absl::StatusOr<std::unique_ptr<Worker>> Start(const config::Worker& config,
                                              ShutdownSignal& shutdown, const Device& device) {
  // Loading can take long, and nothing is lost with it.
  const Periodic leaving(kWatch, [&shutdown] {
    if (shutdown.count() == 0) return;
    LogInfo("worker", "stopped while loading");
    FlushLogs(kLastLines);
    std::_Exit(kExitOk);
  });
  return Worker::Start(config, Clock::Real(), Random::Real(), device);
}

}  // namespace

int RunWorker(int argc, const char* const* argv, const Device& device) {
  SkipLockOrderChecks();
  const int64_t start_ns = Clock::Real()->MonotonicNs();
  ShutdownSignal shutdown;
  const auto line = ParseCommandLine(argc, argv, FromEnvironment("MASTER_NODE"), HostName());
  if (absl::IsCancelled(line.status())) return kExitOk;
  LogOptions log{.service = "fathom-worker"};
  if (absl::IsInvalidArgument(line.status())) return Fail(log, line.status(), kExitUsage);
  if (!line.ok()) return Fail(log, line.status(), kExitConfig);
  if (line->dump_config) {
    std::fputs(DumpConfig(line->config).c_str(), stdout);
    return kExitOk;
  }
  const config::Worker& config = line->config.worker();
  if (config.exit_with_parent() && !TieToParent()) return kExitOk;
  log.level = line->config.logging().level();
  log.json = line->config.logging().format() == "json";
  log.node = config.id();
  if (const absl::Status ready = InitLogging(log); !ready.ok()) {
    return Fail(log, ready, kExitConfig);
  }

  RequireTls13();
  LogForGrpc();
  auto worker = Start(config, shutdown, device);
  if (absl::IsDeadlineExceeded(worker.status())) ExitDead(worker.status());
  if (!worker.ok()) return Fail(log, worker.status(), ExitCodeOf(worker.status()));
  std::optional<CrashWatch> crash;
  crash.emplace([worker = worker->get()](int signal) {
    worker->SayCrashed();
    LogError("worker", "crashing", {{"labels.signal", int64_t{signal}}});
    absl::SleepFor(kLastWords);
  });
  absl::Status end = Watch(**worker, shutdown, start_ns);
  if (end.ok()) {
    LogInfo("worker", "draining");
    end = Drain(**worker, shutdown, absl::Seconds(config.drain_seconds()));
  }
  if (!end.ok()) ExitDead(end);
  crash.reset();
  Stop(*std::move(worker));
  LogInfo("worker", "stopped");
  return kExitOk;
}

}  // namespace fathom::worker
