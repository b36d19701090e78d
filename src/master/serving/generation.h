#pragma once

// The life of one generation: ticket, prompt, queue, worker, text, end. It lives on one strand: all
// state is touched there alone; what comes from other threads (CPU pool, dispatcher, link) is
// posted to it.
//
// Invariants:
//   1. The sink hears OnEnd exactly once, and nothing after it.
//   2. Tokens of a choice reach the sink in order, each once; a gap or a repeat is an error.
//   3. Ticket and placement are given back when it ends, whichever way.
//   4. It outlives its workers: when one is lost or gives up, prompt and tokens so far go to
//   another,
//      and the sink sees nothing of it but time. Only a request that seems to be the cause ends.
//   5. Of a request only one generation goes on: one that comes for a client that comes back takes
//      over what another has, here or at a worker, or begins anew and computes the same.

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "master/fleet/fleet.h"
#include "master/serving/admission.h"
#include "master/serving/choice_text.h"
#include "master/serving/condemned.h"
#include "master/serving/cpu_pool.h"
#include "master/serving/dispatcher.h"
#include "master/serving/generation_request.h"
#include "master/serving/hold_budget.h"
#include "master/serving/model_statistics.h"
#include "master/serving/news_line.h"
#include "master/serving/prompt.h"
#include "master/serving/request_book.h"
#include "master/serving/tenant_keys.h"

namespace fathom::master {

// What a generation works with; all of it outlives every generation.
struct GenerationServices {
  Fleet* fleet = nullptr;
  Admission* admission = nullptr;
  Dispatcher* dispatcher = nullptr;
  CpuPool* pool = nullptr;
  StatisticsBook* statistics = nullptr;
  RequestBook* book = nullptr;
  Condemned* condemned = nullptr;
  Quotas* quotas = nullptr;  // null: none are kept
  HoldBudget* holds = nullptr;
  const Clock* clock = nullptr;
  std::string_view cluster_secret;
  bool migration = true;
  absl::Duration patience = absl::Milliseconds(400);  // with a worker that takes nothing on
  // This master's own: so many attempts it leaves out when it runs a request again that was not
  // found, so that no two masters give one number to two runs of it.
  uint32_t attempt_stride = 1;
};

class Generation final : public SubmissionListener,
                         public std::enable_shared_from_this<Generation> {
 public:
  Generation(const GenerationServices& services, boost::asio::any_io_executor strand,
             GenerationRequest request, std::shared_ptr<GenerationSink> sink);
  ~Generation() override;

  // Once, on the strand. The sink may hear OnEnd before it returns. `predecessor` is the last
  // generation of this id here, if it is known; looked at when the request says so.
  void Start(std::shared_ptr<Generation> predecessor = nullptr);
  // On the strand. Ends it with this status, unless it has ended.
  void Cancel(const absl::Status& status);
  // Likewise, while it waits for a worker.
  void CancelWaiting(const absl::Status& status);
  // On the strand. Its client is gone: it goes on without one for the time that the request wants,
  // or ends with this status. The sink hears of its end either way.
  void Leave(const absl::Status& status);

  const boost::asio::any_io_executor& strand() const { return strand_; }
  const std::string& id() const { return request_.id; }
  const ServedModelInfo& model() const { return *request_.model; }

  void OnAccepted(uint32_t attempt) override;
  void OnRejected(uint32_t attempt, const absl::Status& status,
                  absl::Duration retry_after) override;
  void OnOutput(SubmissionOutput output) override;
  void OnWorkerLost(uint32_t attempt, const WorkerLoss& loss) override;

 private:
  // Tokens that a suspect must get past the place where its worker was lost; a worker is some steps
  // ahead of what its master has seen.
  static constexpr int32_t kTokensToClear = 8;

  struct Choice {
    ChoiceText text;
    std::vector<TokenId> tokens;  // so far; what another worker would need to go on
    FinishReason finish = FinishReason::kNone;
    bool finished() const { return finish != FinishReason::kNone; }
    int64_t last_output_ns = 0;
  };

  // What another generation of the same request goes on from.
  struct Takeover {
    uint32_t attempt = 0;
    Placement placement;                    // empty: it runs nowhere
    bool charged = false;                   // its tenant, for that
    std::shared_ptr<NewsLine> line;         // from there; null: there is none
    std::vector<SubmissionOutput> choices;  // all tokens of each so far
    int32_t losses = 0;
    int32_t crashes = 0;
    int32_t cleared_crashes = 0;
    int32_t migrations = 0;
    absl::Status status;  // not OK: it has ended so
  };
  // News that came while it was not known yet what they belong to.
  struct EarlyNews {
    std::optional<SubmissionOutput> output;  // nothing: the worker of that attempt was lost
    uint32_t attempt = 0;
    WorkerLoss loss;
  };

  void ArmDeadline();
  void HandlePrepared(absl::StatusOr<PreparedPrompt> prepared);
  void LookForRunning();
  void AskWorkers();
  std::optional<Takeover> HandOver(const std::shared_ptr<Generation>& heir);
  // `same`: what was asked for it is this generation's request.
  void HandleGiven(bool same, uint32_t attempt, std::optional<Takeover> takeover);
  void HandleClaimed(ClaimOutcome outcome);
  void Adopt(Takeover takeover);
  void ReplayEarlyNews();
  void ReleaseHold();
  int64_t HeldBytes() const;
  void Enqueue();
  void HandleGrant(Placement placement);
  Submission MakeSubmission() const;
  void AwaitAcceptance();
  void HandleUntaken(int64_t due_ns);
  void MarkTakenOn(uint32_t attempt);
  void HandleRejected(const absl::Status& status, absl::Duration retry_after);
  void HandleLost(const WorkerLoss& loss);
  void HandleGivenUp();
  void LookAgainAfter(absl::Duration wait);
  // It may be the cause of what its workers met.
  bool IsSuspect() const;
  std::string Fingerprint() const;
  absl::Status CheckCondemned();
  bool MayStillGo(Placement& placement);
  void ClearSuspicion();
  void TellIfSuspect(const absl::Status& status) const;
  void Note(std::string_view what, std::string_view worker = {}, std::string_view detail = {});
  void HandleOutput(SubmissionOutput output);
  absl::Status CheckOutput(const SubmissionOutput& output) const;
  absl::Status Emit(Choice& choice, SubmissionOutput output);
  absl::Status EmitPart(Choice& choice, SubmissionOutput output);
  bool PastDeadline() const;
  absl::Status FailureOf(const SubmissionOutput& output) const;
  void Measure(Choice& choice, size_t num_tokens);
  void RecordTimes(bool ok);
  void HandleDeadline();
  void End(const absl::Status& status);

  const GenerationServices services_;
  const boost::asio::any_io_executor strand_;
  GenerationRequest request_;
  const TenantKeys tenant_;
  std::shared_ptr<GenerationSink> sink_;  // null once it ended

  std::atomic<uint32_t> taken_on_ = 0;  // the last attempt that a worker has said it takes on

  // State below is touched on the strand alone.
  boost::asio::steady_timer deadline_timer_;
  boost::asio::steady_timer retry_timer_;
  boost::asio::steady_timer acceptance_timer_;
  int64_t started_ns_ = 0;
  int64_t deadline_ns_ = 0;
  int64_t queued_ns_ = 0;
  int64_t granted_ns_ = 0;
  GenerationTimes times_;
  QuotaCharge quota_;
  Admission::Ticket ticket_;
  PreparedPrompt prompt_;
  std::string fingerprint_;  // of the prompt, and of what else decides what a worker computes
  std::optional<Dispatcher::Handle> queued_;
  Placement placement_;
  bool placed_ = false;                  // a worker has it, or has had it
  bool charged_ = false;                 // its tenant, for its place in the queue
  std::weak_ptr<NewsLine> line_;         // from its workers, who keep it, and by it this
  int32_t predicted_cached_tokens_ = 0;  // by the last placement
  uint32_t attempt_ = 0;                 // of the last submission
  uint32_t attempts_left_out_ = 0;       // before the next one
  int32_t losses_ = 0;                   // workers it has lost, whatever the reason
  int32_t migrations_ = 0;
  int32_t tokens_here_ = 0;      // that the last placement has brought
  int64_t lost_at_ns_ = 0;       // of the last worker lost, until a token comes again
  int32_t crashes_ = 0;          // of these, workers that may have crashed because of it
  int32_t cleared_crashes_ = 0;  // likewise, of places that it has got past since
  bool like_crashed_ = false;    // counted in crashes_: one that its like has crashed lately
  int32_t untaken_ = 0;          // submissions that no worker took on in time
  int32_t refusals_ = 0;         // for reasons other than a full worker
  absl::Duration retry_wait_;
  std::optional<absl::Status> last_rejection_;
  std::vector<Choice> choices_;
  int32_t num_finished_ = 0;
  bool any_output_ = false;
  bool prompt_logprobs_sent_ = false;
  std::shared_ptr<RequestPage> page_;
  GenerationUsage usage_;

  // Of resuming.
  std::shared_ptr<Generation> predecessor_;  // until it was looked at
  bool looking_ = false;                     // for where it runs already
  bool replaying_ = false;                   // tokens that were there before
  std::vector<EarlyNews> early_;             // while looking_
  std::shared_ptr<Generation> heir_;         // goes on instead; hears what was on its way here
  bool taken_over_ = false;                  // by another generation, here or at another master
  boost::asio::steady_timer hold_timer_;
  bool held_ = false;                // without a client, until hold_timer_ ends it
  std::optional<absl::Status> end_;  // while held_, once it has ended
};

}  // namespace fathom::master
