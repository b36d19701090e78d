// What a worker may send its master, in any order, while the master submits, claims and cancels:
// every submission and every claim hears its tokens in order and its end once, what a crash does
// not name is not blamed for it, and the books of what is in flight balance.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "fathom/v1/link.pb.h"
#include "fuzz/feedback.h"
#include "fuzz/frames.h"
#include "master/fleet/cache_follower.h"
#include "master/fleet/condemned_news.h"
#include "master/fleet/link_messages.h"
#include "master/fleet/worker_facts.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr size_t kCondemnedMax = 4096;

enum Kind : size_t { kControl, kData, kCancel, kWait, kBulk, kSubmit, kClaim };

const fuzz::Frames& Messages() {
  // Ours are cancel, submit and claim (clients that go, come and come back), and wait: milliseconds
  // that pass.
  static const auto& frames =
      *new fuzz::Frames({{"control", &v1::WorkerControl::default_instance()},
                         {"data", &v1::WorkerData::default_instance()},
                         {"cancel", &v1::Cancel::default_instance()},
                         {"wait", &v1::Welcome::default_instance()},
                         {"bulk", &v1::WorkerBulk::default_instance()},
                         {"submit", &v1::Submit::default_instance()},
                         {"claim", &v1::Claim::default_instance()}});
  return frames;
}

template <typename Message>
class OpenSink final : public MessageSink<Message> {
 public:
  bool Send(Message) override { return !aborted_; }
  void Abort() override { aborted_ = true; }

 private:
  bool aborted_ = false;
};

// A follower of the cache asks for a page at a time, and for no more than there can be.
class PageSink final : public MessageSink<v1::MasterBulk> {
 public:
  bool Send(v1::MasterBulk message) override {
    FATHOM_CHECK(message.has_resync_page(), "asks for nothing");
    FATHOM_CHECK(message.resync_page() <= CacheFollower::kPagesMax, "asks for ever more");
    return true;
  }
  void Abort() override {}
};

// The books of one submission, or of one claim, as its owner would keep them.
class Listener final : public SubmissionListener {
 public:
  explicit Listener(const Submission& submission)
      : attempt_(submission.attempt), cost_(submission.cost), name_(submission.fingerprint) {
    for (const SubmissionChoice& choice : submission.choices) {
      choices_.push_back({choice.index, static_cast<int32_t>(choice.tokens.size())});
    }
  }
  // A claim hears nothing before its answer.
  explicit Listener(int64_t cost) : cost_(cost), over_(true) {}

  bool over() const { return over_; }
  int64_t cost() const { return cost_; }
  uint32_t attempt() const { return attempt_; }
  // What it was lost of, if it was.
  std::optional<LossKind> lost() const { return lost_; }
  const std::string& name() const { return name_; }

  // False when no honest worker has such a thing: its owner gives it up.
  bool Adopt(const ClaimedWork& work) {
    attempt_ = work.attempt;
    std::set<int32_t> seen;
    bool good = !work.choices.empty();
    for (const SubmissionOutput& output : work.choices) {
      good = good && seen.insert(output.choice).second;
      choices_.push_back({output.choice, static_cast<int32_t>(output.tokens.size()),
                          output.finish == FinishReason::kNone});
    }
    over_ = false;
    End();
    return good;
  }

  void Cancelled(const std::vector<int32_t>& indices) {
    for (Choice& choice : choices_) {
      const bool named = std::find(indices.begin(), indices.end(), choice.index) != indices.end();
      if (indices.empty() || named) choice.open = false;
    }
    End();
  }

  void OnAccepted(uint32_t attempt) override { Heard(attempt); }
  void OnRejected(uint32_t attempt, const absl::Status& status,
                  absl::Duration retry_after) override {
    Heard(attempt);
    FATHOM_CHECK(!status.ok() && retry_after >= absl::ZeroDuration(), "a strange rejection");
    over_ = true;
  }
  void OnOutput(SubmissionOutput output) override {
    Heard(output.attempt);
    const auto choice = std::find_if(choices_.begin(), choices_.end(),
                                     [&](const Choice& c) { return c.index == output.choice; });
    FATHOM_CHECK(choice != choices_.end() && choice->open, "output of a closed choice");
    FATHOM_CHECK(output.first_index == choice->next, "a gap or a repeat");
    FATHOM_CHECK(output.logprobs.empty() || output.logprobs.size() == output.tokens.size(),
                 "logprobs of other tokens");
    choice->next += static_cast<int32_t>(output.tokens.size());
    choice->open = output.finish == FinishReason::kNone;
    End();
  }
  void OnWorkerLost(uint32_t attempt, const WorkerLoss& loss) override {
    Heard(attempt);
    FATHOM_CHECK(!loss.reason.ok(), "lost without a reason");
    lost_ = loss.kind;
    over_ = true;
  }

 private:
  struct Choice {
    int32_t index = 0;
    int32_t next = 0;
    bool open = true;
  };

  void Heard(uint32_t attempt) const {
    FATHOM_CHECK(!over_, "heard of after its end");
    FATHOM_CHECK(attempt == attempt_, "heard of another attempt");
  }
  void End() {
    over_ = std::none_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.open; });
  }

  uint32_t attempt_ = 0;
  const int64_t cost_;
  const std::string name_;
  std::vector<Choice> choices_;
  std::optional<LossKind> lost_;
  bool over_ = false;
};

Submission MakeSubmission(int number, uint32_t attempt) {
  Submission submission;
  submission.request_id = "r" + std::to_string(number);
  submission.attempt = attempt;
  submission.cost = 10 * number;
  // One has no name.
  if (number != 2) submission.fingerprint = std::string(32, static_cast<char>('a' + number));
  submission.prompt = {1, 2, 3};
  for (int32_t i = 0; i < number; ++i) submission.choices.push_back({i, {}});
  if (number == 2) submission.choices[1].tokens = {5, 6};
  submission.stop.max_tokens = 9;
  if (number == 3) submission.logprobs.prompt = 1;
  return submission;
}

class Master {
 public:
  absl::Status Take(const fuzz::Frame& frame) {
    if (session_ == nullptr && frame.kind != kControl) return absl::OkStatus();
    switch (frame.kind) {
      case kControl:
        return Control(static_cast<const v1::WorkerControl&>(*frame.message));
      case kData:
        return Data(static_cast<const v1::WorkerData&>(*frame.message));
      case kBulk:
        return session_->OnBulk(static_cast<const v1::WorkerBulk&>(*frame.message)).status();
      case kCancel:
        Cancel(static_cast<const v1::Cancel&>(*frame.message));
        return absl::OkStatus();
      case kSubmit:
        Submit(static_cast<const v1::Submit&>(*frame.message));
        return absl::OkStatus();
      case kClaim:
        Claim(static_cast<const v1::Claim&>(*frame.message).request_id());
        return absl::OkStatus();
      default:
        now_ns_ += std::clamp<int64_t>(
                       static_cast<const v1::Welcome&>(*frame.message).heartbeat_ms(), 0, 10'000) *
                   1'000'000;
        return Verdict();
    }
  }

  void CheckBooks() const {
    if (session_ == nullptr) return;
    const WorkerInfo info = session_->Info();
    int64_t cost = 0;
    int32_t open = 0;
    for (const Party& party : parties_) {
      if (party.listener->over()) continue;
      cost += party.listener->cost();
      ++open;
    }
    FATHOM_CHECK(info.in_flight_cost == cost, "the cost in flight is wrong");
    FATHOM_CHECK(info.in_flight == open, "the number in flight is wrong");
    CheckFigures(info);
  }

  void Die() {
    if (session_ == nullptr) return;
    std::vector<const Listener*> open;
    for (const Party& party : parties_) {
      if (!party.listener->over()) open.push_back(party.listener.get());
    }
    session_->Die(loss_);
    CheckBlame(open);
    for (const Party& party : parties_) {
      FATHOM_CHECK(party.listener->over(), "nobody told of the loss");
      FATHOM_CHECK(party.listener.use_count() == 1, "a listener was kept");
      FATHOM_CHECK(!party.awaits_answer, "a claim that nobody answered");
    }
    FATHOM_CHECK(session_->Info().in_flight_cost == 0, "cost of a dead worker");
  }

 private:
  struct Party {
    std::string id;
    std::shared_ptr<Listener> listener;
    bool awaits_answer = false;             // to its claim
    std::optional<ClaimedWork> found = {};  // by that, and not looked at yet
  };

  // What routers reckon with.
  static void CheckFigures(const ModelFigures& figures) {
    FATHOM_CHECK(figures.credit >= 0 && figures.queued_tokens >= 0, "less than nothing");
    for (const int32_t count :
         {figures.waiting, figures.running, figures.free_blocks, figures.total_blocks}) {
      FATHOM_CHECK(count >= 0 && count <= kWorkerCountMax, "a count beyond counting");
    }
    for (const float rate :
         {figures.tokens_per_second, figures.prefill_tokens_per_second, figures.step_seconds}) {
      FATHOM_CHECK(std::isfinite(rate) && rate >= 0, "a rate that is none");
    }
  }
  static void CheckFigures(const WorkerInfo& info) {
    CheckFigures(info.figures);
    FATHOM_CHECK(info.saturation >= 0 && info.saturation <= 1, "more than all, or less than none");
    FATHOM_CHECK(info.free_memory_bytes >= 0, "less memory than none");
    FATHOM_CHECK(info.models.size() <= kWorkerModelsMax, "too many models");
    std::set<std::string> names;
    for (const ServedModel& model : info.models) {
      FATHOM_CHECK(names.insert(model.name).second, "a model twice");
      FATHOM_CHECK(model.bytes_done >= 0 && model.bytes_total >= 0 && model.memory_bytes >= 0,
                   "less than nothing of a model");
      if (model.figures) CheckFigures(*model.figures);
    }
  }

  // Of a crash, what its last words do not name has not met it; of anything else, all alike.
  void CheckBlame(const std::vector<const Listener*>& open) const {
    for (const Listener* listener : open) {
      const bool met =
          !last_words_ || listener->name().empty() || last_words_->contains(listener->name());
      const LossKind due = met ? loss_.kind : LossKind::kLeft;
      FATHOM_CHECK(listener->lost() == due, "blamed for what it did not meet");
    }
  }

  absl::Status Verdict() {
    const auto loss = session_->Judge(now_ns_, 0);
    if (!loss) return absl::OkStatus();
    loss_ = *loss;
    return loss->reason;
  }

  absl::Status Control(const v1::WorkerControl& message) {
    if (session_ == nullptr) return Greet(message.hello());
    if (message.has_heartbeat()) {
      session_->OnHeartbeat(message.heartbeat(), now_ns_);
      if (message.heartbeat().state() == v1::ENGINE_STATE_DEAD) return Verdict();
    }
    if (message.has_leaving()) session_->OnLeaving(message.leaving().reason());
    if (message.has_condemned()) {
      RETURN_IF_ERROR(condemned_.Hear(message.condemned()).status());
      FATHOM_CHECK(condemned_.All().size() <= kCondemnedMax, "more names than there is room for");
    }
    if (message.has_last_words()) return LastWords(message.last_words());
    if (!message.has_model_state()) return absl::OkStatus();
    return session_->OnModelState(message.model_state());
  }

  // They are its end.
  absl::Status LastWords(const v1::LastWords& words) {
    RETURN_IF_ERROR(condemned_.Hear(words));
    session_->OnLastWords(words);
    loss_ = {LossKind::kCrash, absl::UnavailableError("the worker's engine is dead")};
    if (words.runs_size() < kLastWordsMax) {
      last_words_.emplace();
      for (const v1::LastWords::Run& run : words.runs()) last_words_->insert(run.fingerprint());
    }
    return loss_.reason;
  }

  absl::Status Greet(const v1::Hello& hello) {
    RETURN_IF_ERROR(CheckHello(hello));
    session_ = std::make_unique<WorkerSession>(
        hello, "session", absl::Milliseconds(250), absl::Seconds(3), now_ns_,
        std::make_shared<OpenSink<v1::MasterControl>>(), [](FleetNews) {});
    FATHOM_CHECK(session_->BindData(std::make_shared<OpenSink<v1::MasterData>>()), "no data");
    FATHOM_CHECK(session_->BindBulk(std::make_shared<PageSink>()), "no bulk");
    for (int number = 1; number <= 3; ++number) {
      Submit(MakeSubmission(number, static_cast<uint32_t>(number)));
    }
    return absl::OkStatus();
  }

  // A further attempt: of its own, or because it was rejected or lost elsewhere.
  void Submit(const v1::Submit& hint) {
    for (int number = 1; number <= 3; ++number) {
      Submission submission = MakeSubmission(number, hint.attempt());
      if (submission.request_id == hint.request_id()) Submit(std::move(submission));
    }
  }
  void Submit(Submission submission) {
    const auto listener = std::make_shared<Listener>(submission);
    const std::string id = submission.request_id;
    const bool taken = session_->Submit(std::move(submission), listener, now_ns_).ok();
    for (const Party& party : parties_) {
      if (taken && party.id == id) FATHOM_CHECK(party.listener->over(), "superseded, not told");
    }
    if (taken) parties_.push_back({.id = id, .listener = listener});
  }

  void Claim(const std::string& id) {
    constexpr int64_t kCost = 7;
    Party& party = parties_.emplace_back();
    party.id = id;
    party.listener = std::make_shared<Listener>(kCost);
    party.awaits_answer = true;
    session_->Claim({.request_id = id, .model = "m", .resume_context = "ctx", .cost = kCost},
                    party.listener, [&party](WorkerSession::ClaimAnswer answer) {
                      FATHOM_CHECK(std::exchange(party.awaits_answer, false), "answered twice");
                      party.found = std::move(answer.work);
                    });
  }

  // As a generation does: it goes on with what is whole, and gives up what is not.
  absl::Status Data(const v1::WorkerData& message) {
    v1::WorkerData rest = message;
    v1::WorkerData claimed;
    claimed.mutable_claimed()->Swap(rest.mutable_claimed());
    absl::Status status;
    for (const v1::Claimed& answer : claimed.claimed()) {
      v1::WorkerData one;
      *one.add_claimed() = answer;
      status.Update(session_->OnData(one, now_ns_));
      Adopt();
      if (!status.ok()) return status;
    }
    return session_->OnData(rest, now_ns_);
  }
  void Adopt() {
    for (Party& party : parties_) {
      if (!party.found) continue;
      const ClaimedWork work = *std::exchange(party.found, std::nullopt);
      if (party.listener->Adopt(work)) continue;
      Cancel(party.id, work.attempt, {});
    }
  }

  void Cancel(const v1::Cancel& cancel) {
    Cancel(cancel.request_id(), cancel.attempt(),
           {cancel.choices().begin(), cancel.choices().end()});
  }
  void Cancel(const std::string& id, uint32_t attempt, const std::vector<int32_t>& choices) {
    for (const Party& party : parties_) {
      const Listener& listener = *party.listener;
      if (party.id == id && listener.attempt() <= attempt && !listener.over()) {
        party.listener->Cancelled(choices);
      }
    }
    session_->Cancel(id, attempt, choices);
  }

  int64_t now_ns_ = kSecondNs;
  CondemnedNews condemned_{Clock::Real()};
  std::unique_ptr<WorkerSession> session_;
  WorkerLoss loss_{LossKind::kLeft, absl::UnavailableError("the end")};
  std::optional<std::set<std::string>> last_words_;
  std::deque<Party> parties_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool quiet = InitLogging({.level = "error"}).ok();
  FATHOM_CHECK(quiet, "no logging");
  Master master;
  for (const fuzz::Frame& frame : Messages().Read(data, size)) {
    const absl::Status status = master.Take(frame);
    fuzz::CheckSound(frame.kind, status);
    master.CheckBooks();
    if (!status.ok()) break;
  }
  master.Die();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t size_max,
                                          unsigned seed) {
  return Messages().Mutate(data, size, size_max, seed);
}

}  // namespace fathom::master
