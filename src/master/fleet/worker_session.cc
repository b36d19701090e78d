#include "master/fleet/worker_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "master/fleet/condemned_news.h"
#include "master/fleet/link_messages.h"
#include "master/fleet/worker_facts.h"

namespace fathom::master {
namespace {

// A worker may say anything; beyond this a deadline says nothing more.
constexpr int64_t kStepDeadlineMsMax = int64_t{7} * 24 * 3600 * 1000;

constexpr int32_t kNextBeatMsMax = 5000;
constexpr int64_t kLateNs = 500'000'000;

}  // namespace

bool WorkerSession::Active::all_closed() const {
  return std::none_of(choices.begin(), choices.end(), [](const Choice& c) { return c.open; });
}

WorkerSession::WorkerSession(const v1::Hello& hello, std::string session_id,
                             absl::Duration heartbeat, absl::Duration silence_floor, int64_t now_ns,
                             std::shared_ptr<ControlSink> control, ChangeCallback on_change)
    : key_{hello.worker_id(), absl::BytesToHexString(hello.incarnation())},
      session_id_(std::move(session_id)),
      on_change_(std::move(on_change)),
      control_(std::move(control)),
      info_(InfoOf(hello)),
      judge_(heartbeat, silence_floor, now_ns) {
  info_.linked_at_ns = now_ns;
}

WorkerInfo WorkerSession::Info() const {
  const std::lock_guard lock(mutex_);
  WorkerInfo info = info_;
  info.in_flight = static_cast<int32_t>(active_.size());
  if (dead_) {
    info.state = WorkerState::kDead;
  } else if (leaving_) {
    info.state = WorkerState::kDraining;
  } else if (data_ == nullptr) {
    info.state = WorkerState::kLoading;
  }
  return info;
}

bool WorkerSession::BindData(std::shared_ptr<DataSink> data) {
  {
    const std::lock_guard lock(mutex_);
    if (dead_ || data_ != nullptr) return false;
    data_ = std::move(data);
  }
  on_change_(FleetNews::kMembers);
  return true;
}

bool WorkerSession::BindBulk(std::shared_ptr<BulkSink> bulk) {
  const std::lock_guard lock(mutex_);
  if (dead_ || bulk_ != nullptr) return false;
  bulk_ = std::move(bulk);
  if (NamesBlocks()) AskForCache();
  return true;
}

absl::StatusOr<std::optional<CacheUpdate>> WorkerSession::OnBulk(const v1::WorkerBulk& message) {
  if (!message.has_kv_events()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (dead_) return absl::UnavailableError("the session is over");
  ASSIGN_OR_RETURN(CacheUpdate update, cache_.Take(message.kv_events()));
  AskForCache();
  return update;
}

void WorkerSession::AskForCache() {
  const std::optional<uint64_t> page = cache_.TakeRequest();
  if (!page) return;
  v1::MasterBulk message;
  message.set_resync_page(*page);
  bulk_->Send(std::move(message));
}

absl::Status WorkerSession::Submit(Submission submission,
                                   std::shared_ptr<SubmissionListener> listener, int64_t now_ns) {
  v1::MasterData message;
  *message.mutable_submit() = ToMessage(submission);

  Active active;
  active.attempt = submission.attempt;
  active.cost = submission.cost;
  active.fingerprint = submission.fingerprint;
  active.listener = std::move(listener);
  for (const SubmissionChoice& choice : submission.choices) {
    active.choices.push_back({choice.index, static_cast<int32_t>(choice.tokens.size()), true});
  }
  if (submission.logprobs.prompt) active.prompt = std::move(submission.prompt);

  std::optional<Active> superseded;
  RETURN_IF_ERROR(
      Enter(submission.request_id, std::move(active), std::move(message), now_ns, &superseded));
  if (superseded) TellTakenOver(*superseded);
  return absl::OkStatus();
}

absl::Status WorkerSession::Enter(const std::string& request_id, Active active,
                                  v1::MasterData message, int64_t now_ns,
                                  std::optional<Active>* superseded) {
  const std::lock_guard lock(mutex_);
  if (dead_ || data_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("worker '", key_.id, "' is not linked"));
  }
  if (leaving_) return absl::UnavailableError(absl::StrCat("worker '", key_.id, "' is leaving"));
  const auto old = active_.find(request_id);
  if (old != active_.end() && old->second.attempt >= active.attempt) {
    return absl::AlreadyExistsError(
        absl::StrCat("attempt ", old->second.attempt, " of this request runs there already"));
  }
  // Under the lock, so that an answer cannot come before the submission is known.
  if (!data_->Send(std::move(message))) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the outbox to worker '", key_.id, "' is full"));
  }
  judge_.Asked(now_ns);
  if (old != active_.end()) {
    // Whoever sends the next attempt of its own knows; another one would wait for ever.
    if (old->second.listener != active.listener) *superseded = old->second;
    Erase(old);
  }
  info_.in_flight_cost += active.cost;
  active_.emplace(request_id, std::move(active));
  return absl::OkStatus();
}

void WorkerSession::TellTakenOver(const Active& active) {
  for (const Choice& choice : active.choices) {
    if (!choice.open) continue;
    SubmissionOutput output;
    output.attempt = active.attempt;
    output.choice = choice.index;
    output.first_index = choice.next_token;
    output.finish = FinishReason::kCancelled;
    output.taken_over = true;
    active.listener->OnOutput(std::move(output));
  }
}

void WorkerSession::Cancel(const std::string& request_id, uint32_t attempt,
                           std::vector<int32_t> choices) {
  v1::MasterControl message;
  message.mutable_cancel()->set_request_id(request_id);
  message.mutable_cancel()->set_attempt(attempt);
  message.mutable_cancel()->mutable_choices()->Add(choices.begin(), choices.end());
  SendControl(std::move(message));
  {
    const std::lock_guard lock(mutex_);
    const auto it = active_.find(request_id);
    if (it == active_.end() || it->second.attempt > attempt) return;
    for (Choice& choice : it->second.choices) {
      if (choices.empty() ||
          std::find(choices.begin(), choices.end(), choice.index) != choices.end()) {
        choice.open = false;
      }
    }
    if (!it->second.all_closed()) return;
    Erase(it);
  }
  on_change_(FleetNews::kFigures);
}

void WorkerSession::Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
                          OnClaimed answered) {
  v1::MasterControl message;
  message.mutable_claim()->set_request_id(request.request_id);
  message.mutable_claim()->set_resume_context(request.resume_context);
  message.mutable_claim()->set_model(request.model);
  {
    const std::lock_guard lock(mutex_);
    if (!dead_ && data_ != nullptr && control_->Send(std::move(message))) {
      claims_.emplace(request.request_id,
                      PendingClaim{request.cost, std::move(listener), std::move(answered)});
      return;
    }
  }
  answered({});
}

bool WorkerSession::Idle() const {
  const std::lock_guard lock(mutex_);
  return active_.empty();
}

bool WorkerSession::SendControl(v1::MasterControl message) {
  return control_->Send(std::move(message));
}

void WorkerSession::SetShare(const Backlog& backlog, v1::MasterHeartbeat* heartbeat) const {
  heartbeat->set_backlog_cost(0);
  heartbeat->clear_backlogs();
  if (backlog.empty()) return;
  const std::lock_guard lock(mutex_);
  const auto serving = std::count_if(info_.models.begin(), info_.models.end(),
                                     [](const ServedModel& model) { return model.serving(); });
  int64_t cost = 0;
  for (const ServedModel& model : info_.models) {
    const auto waiting = backlog.find(model.name);
    if (waiting == backlog.end() || !model.serving()) continue;
    cost += waiting->second;
    if (serving == 1) continue;
    v1::ModelBacklog* out = heartbeat->add_backlogs();
    out->set_model(model.name);
    out->set_cost(waiting->second);
  }
  heartbeat->set_backlog_cost(cost);
}

absl::Status WorkerSession::OnModelState(const v1::ModelState& state) {
  {
    const std::lock_guard lock(mutex_);
    const bool named = NamesBlocks();
    RETURN_IF_ERROR(Apply(state, &info_));
    if (!named && NamesBlocks() && bulk_ != nullptr) AskForCache();
  }
  on_change_(FleetNews::kMembers);
  return absl::OkStatus();
}

bool WorkerSession::NamesBlocks() const {
  return std::any_of(info_.models.begin(), info_.models.end(),
                     [](const ServedModel& model) { return !model.kv_scope.empty(); });
}

void WorkerSession::OnHeartbeat(const v1::Heartbeat& heartbeat, int64_t now_ns) {
  bool members = false;
  {
    const std::lock_guard lock(mutex_);
    judge_.Beat(now_ns, int64_t{std::clamp(heartbeat.next_ms(), 0, kNextBeatMsMax)} * 1'000'000);
    const int64_t deadline_ms = std::clamp(static_cast<int64_t>(heartbeat.step_deadline_ms()),
                                           -kStepDeadlineMsMax, kStepDeadlineMsMax);
    hang_at_ns_ = deadline_ms == 0 ? 0 : now_ns + deadline_ms * 1'000'000;
    // A process that was stopped, and goes on, is late at first.
    if (deadline_ms >= 0) {
      late_since_ns_ = 0;
    } else if (late_since_ns_ == 0) {
      late_since_ns_ = now_ns;
    }
    hangs_ = late_since_ns_ != 0 && now_ns - late_since_ns_ >= kLateNs;
    engine_dead_ = heartbeat.state() == v1::ENGINE_STATE_DEAD;
    members = Apply(heartbeat, &info_);
    info_.heard_ns = now_ns;
  }
  on_change_(members ? FleetNews::kMembers : FleetNews::kFigures);
}

void WorkerSession::OnLeaving(const std::string& reason) {
  LogInfo("link", "worker leaves",
          {{"labels.worker", key_.id}, {"labels.reason", reason.substr(0, 200)}});
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  on_change_(FleetNews::kMembers);
}

void WorkerSession::OnLastWords(const v1::LastWords& words) {
  if (words.runs_size() >= kLastWordsMax) return;  // there was more to say, maybe
  const std::lock_guard lock(mutex_);
  ran_.emplace();
  for (const v1::LastWords::Run& run : words.runs()) ran_->insert(run.fingerprint());
}

std::optional<WorkerLoss> WorkerSession::Judge(int64_t now_ns, int64_t slept_ns) {
  const std::lock_guard lock(mutex_);
  if (slept_ns > 0) {
    judge_.Excuse(slept_ns);
    if (hang_at_ns_ != 0) hang_at_ns_ += slept_ns;
  }
  if (engine_dead_) {
    return WorkerLoss{LossKind::kCrash, absl::UnavailableError("the worker's engine is dead")};
  }
  if (hangs_) {
    return WorkerLoss{
        LossKind::kCrash,
        absl::UnavailableError("the worker's engine hangs: its step is past its deadline")};
  }
  // Whether it hangs is its own to say: of one that does not it is not known.
  const bool overdue = hang_at_ns_ != 0 && now_ns > hang_at_ns_;
  if (judge_.Silent(now_ns) || (overdue && judge_.SilentForFloor(now_ns))) {
    return WorkerLoss{LossKind::kSilent,
                      absl::UnavailableError(absl::StrCat("the worker was silent for more than ",
                                                          judge_.LimitNs() / 1'000'000, " ms"))};
  }
  return std::nullopt;
}

bool WorkerSession::Die(const WorkerLoss& loss) {
  ActiveMap lost;
  PendingClaims unanswered;
  std::shared_ptr<DataSink> data;
  std::shared_ptr<BulkSink> bulk;
  std::optional<std::unordered_set<std::string>> ran;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(dead_, true)) return false;
    if (loss.kind == LossKind::kCrash) ran.swap(ran_);
    lost.swap(active_);
    unanswered.swap(claims_);
    data = std::move(data_);
    bulk = std::move(bulk_);
    info_.in_flight_cost = 0;
  }
  // Ending the streams may come back here; by now that does nothing.
  control_->Abort();
  if (data != nullptr) data->Abort();
  if (bulk != nullptr) bulk->Abort();
  const std::lock_guard delivery(delivery_mutex_);  // lets a delivery under way end first
  for (auto& [id, claim] : unanswered) claim.answered({});
  for (auto& [id, active] : lost) {
    const bool reached = !ran || active.fingerprint.empty() || ran->contains(active.fingerprint);
    active.listener->OnWorkerLost(active.attempt,
                                  reached ? loss : WorkerLoss{LossKind::kLeft, loss.reason});
  }
  return true;
}

absl::Status WorkerSession::OnData(const v1::WorkerData& message, int64_t now_ns) {
  const std::lock_guard delivery(delivery_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (dead_) return absl::UnavailableError("the session is over");
    judge_.Heard(now_ns);
  }
  for (const v1::Accepted& accepted : message.accepted()) DeliverAccepted(accepted);
  for (const v1::Rejected& rejected : message.rejected()) DeliverRejected(rejected);
  for (const v1::Claimed& claimed : message.claimed()) RETURN_IF_ERROR(DeliverClaimed(claimed));
  for (const v1::StepOutput& output : message.outputs()) RETURN_IF_ERROR(DeliverOutput(output));
  return absl::OkStatus();
}

absl::Status WorkerSession::DeliverClaimed(const v1::Claimed& claimed) {
  ClaimAnswer answer{.attempt = claimed.attempt(), .other_context = claimed.other_context()};
  if (claimed.found()) {
    answer.work = ClaimedWork{.worker = key_, .attempt = claimed.attempt()};
    for (const v1::StepOutput& output : claimed.outputs()) {
      ASSIGN_OR_RETURN(answer.work->choices.emplace_back(), FromMessage(output));
    }
  }
  PendingClaim claim;
  {
    const std::lock_guard lock(mutex_);
    const auto pending = claims_.find(claimed.request_id());
    if (pending == claims_.end()) return absl::InvalidArgumentError("an answer to no claim");
    claim = std::move(pending->second);
    claims_.erase(pending);
    // It has been sent there anew since, which takes the place of what was found.
    if (active_.contains(claimed.request_id())) answer.work.reset();
    if (answer.work) {
      Active active{.attempt = claimed.attempt(), .cost = claim.cost, .listener = claim.listener};
      for (const SubmissionOutput& output : answer.work->choices) {
        active.choices.push_back({output.choice, static_cast<int32_t>(output.tokens.size()),
                                  output.finish == FinishReason::kNone});
      }
      if (!active.all_closed()) {
        info_.in_flight_cost += active.cost;
        active_.emplace(claimed.request_id(), std::move(active));
      }
    }
  }
  claim.answered(std::move(answer));
  return absl::OkStatus();
}

void WorkerSession::DeliverAccepted(const v1::Accepted& accepted) {
  std::shared_ptr<SubmissionListener> listener;
  {
    const std::lock_guard lock(mutex_);
    const auto it = active_.find(accepted.request_id());
    if (it != active_.end() && it->second.attempt == accepted.attempt()) {
      listener = it->second.listener;
    }
  }
  if (listener != nullptr) return listener->OnAccepted(accepted.attempt());
  // It was cancelled before, on another stream: the cancel may have come first and met nothing.
  v1::MasterControl message;
  message.mutable_cancel()->set_request_id(accepted.request_id());
  message.mutable_cancel()->set_attempt(accepted.attempt());
  SendControl(std::move(message));
}

void WorkerSession::DeliverRejected(const v1::Rejected& rejected) {
  std::shared_ptr<SubmissionListener> listener;
  {
    const std::lock_guard lock(mutex_);
    const auto it = active_.find(rejected.request_id());
    if (it == active_.end() || it->second.attempt != rejected.attempt()) return;
    listener = it->second.listener;
    Erase(it);
  }
  const bool known = rejected.code() > 0 && rejected.code() <= 16;
  auto code = known ? static_cast<absl::StatusCode>(rejected.code()) : absl::StatusCode::kUnknown;
  if (rejected.alone() && code == absl::StatusCode::kResourceExhausted) {
    code = absl::StatusCode::kAborted;
  }
  listener->OnRejected(rejected.attempt(), absl::Status(code, rejected.reason()),
                       absl::Milliseconds(std::max<int64_t>(0, rejected.retry_after_ms())));
  on_change_(FleetNews::kFigures);
}

absl::Status WorkerSession::DeliverOutput(const v1::StepOutput& message) {
  absl::StatusOr<SubmissionOutput> output = FromMessage(message);
  if (!output.ok()) return output.status();
  const uint32_t attempt = output->attempt;
  Delivery delivery;
  {
    const std::lock_guard lock(mutex_);
    delivery = TakeOutput(message.request_id(), *std::move(output));
  }
  if (delivery.listener == nullptr) {
    // Nobody waits for it. Its Cancel has overtaken its Submit, or is still on its way; once more
    // does no harm.
    if (message.finish() == 0) CancelChoice(message.request_id(), attempt, message.choice());
    return absl::OkStatus();
  }
  if (delivery.output) {
    delivery.listener->OnOutput(*std::move(delivery.output));
  } else {
    // The copy there is of no use any more; the listener's owner starts another elsewhere.
    CancelChoice(message.request_id(), attempt, std::nullopt);
    delivery.listener->OnWorkerLost(attempt, {LossKind::kBroken, delivery.lost});
  }
  if (delivery.closed) on_change_(FleetNews::kFigures);
  return absl::OkStatus();
}

void WorkerSession::CancelChoice(const std::string& request_id, uint32_t attempt,
                                 std::optional<int32_t> choice) {
  v1::MasterControl message;
  message.mutable_cancel()->set_request_id(request_id);
  message.mutable_cancel()->set_attempt(attempt);
  if (choice) message.mutable_cancel()->add_choices(*choice);
  SendControl(std::move(message));
}

WorkerSession::Delivery WorkerSession::TakeOutput(const std::string& request_id,
                                                  SubmissionOutput output) {
  const auto it = active_.find(request_id);
  if (it == active_.end() || it->second.attempt != output.attempt) return {};
  Active& active = it->second;
  const auto choice = std::find_if(active.choices.begin(), active.choices.end(),
                                   [&output](const Choice& c) { return c.index == output.choice; });
  if (choice == active.choices.end() || !choice->open) return {};

  Delivery delivery;
  delivery.listener = active.listener;
  const bool empty = output.tokens.empty();
  const bool whole = output.finish == FinishReason::kStop || output.finish == FinishReason::kLength;
  if (output.first_index > choice->next_token && (!empty || whole)) {
    delivery.lost = absl::DataLossError(absl::StrCat(
        "the worker skipped from token ", choice->next_token, " to ", output.first_index));
    delivery.closed = true;
    Erase(it);
    return delivery;
  }
  if (!empty) {
    const size_t repeated =
        std::min<size_t>(choice->next_token - output.first_index, output.tokens.size());
    output.tokens.erase(output.tokens.begin(), output.tokens.begin() + repeated);
    if (!output.logprobs.empty()) {
      output.logprobs.erase(output.logprobs.begin(), output.logprobs.begin() + repeated);
    }
  }
  output.first_index = choice->next_token;
  choice->next_token += static_cast<int32_t>(output.tokens.size());
  for (size_t i = 0; i < output.prompt_logprobs.size() && i + 1 < active.prompt.size(); ++i) {
    output.prompt_logprobs[i].chosen.token = active.prompt[i + 1];
  }
  if (output.finish != FinishReason::kNone) {
    choice->open = false;
    if (active.all_closed()) {
      delivery.closed = true;
      Erase(it);
    }
  }
  delivery.output = std::move(output);
  return delivery;
}

void WorkerSession::Erase(ActiveMap::iterator it) {
  info_.in_flight_cost -= it->second.cost;
  active_.erase(it);
}

}  // namespace fathom::master
