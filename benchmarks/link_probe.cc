// How long a submission of one token takes over the link to a worker and back, with no master above
// it: `fathom-link-probe PORT_FILE COUNT CERTIFICATES` listens on a free loopback port, writes it
// into the file, waits for a worker of the CA in that folder (as `fathom cert` makes it) and prints
// percentiles as JSON. What a request takes longer than this is the master's, and the client's,
// own.

#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/load/samples.h"
#include "common/clock.h"
#include "common/files.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/fleet/link_server.h"

namespace fathom::master {
namespace {

constexpr absl::Duration kWorkerLimit = absl::Seconds(20);
constexpr absl::Duration kAnswerLimit = absl::Seconds(5);
constexpr int kCountMax = 1'000'000;
constexpr size_t kPromptTokens = 64;

// Waits for the end of one submission.
class EndListener final : public SubmissionListener {
 public:
  void OnAccepted(uint32_t /*attempt*/) override {}
  void OnRejected(uint32_t /*attempt*/, const absl::Status& status,
                  absl::Duration /*retry_after*/) override {
    End(status);
  }
  void OnOutput(SubmissionOutput output) override {
    if (output.finish != FinishReason::kNone) End(absl::OkStatus());
  }
  void OnWorkerLost(uint32_t /*attempt*/, const WorkerLoss& loss) override { End(loss.reason); }

  absl::Status Wait() {
    std::unique_lock lock(mutex_);
    const bool ended =
        changed_.wait_for(lock, absl::ToChronoNanoseconds(kAnswerLimit), [this] { return ended_; });
    return ended ? status_ : absl::DeadlineExceededError("the worker does not answer");
  }

 private:
  void End(const absl::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      status_ = status;
    }
    changed_.notify_one();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;   // protected by mutex_
  absl::Status status_;  // protected by mutex_
};

absl::StatusOr<WorkerInfo> WaitForWorker(const Fleet& fleet) {
  const absl::Time deadline = absl::Now() + kWorkerLimit;
  while (absl::Now() < deadline) {
    const std::shared_ptr<const FleetSnapshot> snapshot = fleet.Snapshot();
    for (const WorkerInfo& worker : snapshot->workers) {
      if (worker.state == WorkerState::kReady && worker.figures.credit > 0) return worker;
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  return absl::DeadlineExceededError("no worker came");
}

absl::Status Run(const std::string& port_file, int count, const std::string& certificates) {
  const TlsFiles tls{.ca = certificates + "/ca.pem",
                     .certificate = certificates + "/master/cert.pem",
                     .key = certificates + "/master/key.pem"};
  ASSIGN_OR_RETURN(const std::unique_ptr<LinkServer> link, LinkServer::Start({.tls = tls}));
  RETURN_IF_ERROR(WriteFileAtomically(port_file, absl::StrCat("{\"link\": ", link->port(), "}\n")));
  ASSIGN_OR_RETURN(const WorkerInfo worker, WaitForWorker(*link));
  std::vector<float> took_us;
  for (int i = 0; i < count; ++i) {
    Submission submission;
    submission.request_id = absl::StrCat("probe-", i);
    submission.model = worker.models.front().name;
    submission.cost = kPromptTokens + 1;
    submission.remaining = kAnswerLimit;
    submission.prompt.assign(kPromptTokens, 300 + i % 1000);
    submission.choices = {{}};
    submission.stop.max_tokens = 1;
    const auto listener = std::make_shared<EndListener>();
    const int64_t start_ns = Clock::Real()->MonotonicNs();
    RETURN_IF_ERROR(link->Submit(worker.key, std::move(submission), listener));
    RETURN_IF_ERROR(listener->Wait());
    took_us.push_back(static_cast<float>(Clock::Real()->MonotonicNs() - start_ns) * 1e-3F);
  }
  const cli::Summary summary = cli::Summarize(std::move(took_us));
  std::printf("{\"p50_us\": %.1f, \"p99_us\": %.1f}\n", summary.p50, summary.p99);
  link->Stop();
  return absl::OkStatus();
}

}  // namespace
}  // namespace fathom::master

int main(int argc, char** argv) {
  const int count = argc == 4 ? std::atoi(argv[2]) : 0;
  if (count < 1 || count > fathom::master::kCountMax) {
    std::fprintf(stderr, "usage: fathom-link-probe PORT_FILE COUNT CERTIFICATES\n");
    return 2;
  }
  fathom::RequireTls13();
  const absl::Status status = fathom::master::Run(argv[1], count, argv[3]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "fathom-link-probe: %s\n", std::string(fathom::Message(status)).c_str());
  return 1;
}
