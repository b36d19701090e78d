// What a worker may send its master, in any order: every submission hears its tokens in order and
// its end once, and the books of what is in flight balance.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "fathom/v1/link.pb.h"
#include "fuzz/feedback.h"
#include "fuzz/frames.h"
#include "master/fleet/condemned_news.h"
#include "master/fleet/link_messages.h"
#include "master/fleet/worker_session.h"

namespace fathom::master {
namespace {

constexpr int64_t kSecondNs = 1'000'000'000;
constexpr size_t kCondemnedMax = 4096;

enum Kind : size_t { kControl, kData, kCancel, kWait, kBulk };

const fuzz::Frames& Messages() {
  // Cancel and wait are ours: a client that goes away, and milliseconds that pass.
  static const auto& frames =
      *new fuzz::Frames({{"control", &v1::WorkerControl::default_instance()},
                         {"data", &v1::WorkerData::default_instance()},
                         {"cancel", &v1::Cancel::default_instance()},
                         {"wait", &v1::Welcome::default_instance()},
                         {"bulk", &v1::WorkerBulk::default_instance()}});
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

// The books of one submission, as its owner would keep them.
class Listener final : public SubmissionListener {
 public:
  explicit Listener(const Submission& submission) : attempt_(submission.attempt) {
    for (const SubmissionChoice& choice : submission.choices) {
      choices_.push_back({choice.index, static_cast<int32_t>(choice.tokens.size())});
    }
  }

  bool over() const { return over_; }
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

  const uint32_t attempt_;
  std::vector<Choice> choices_;
  bool over_ = false;
};

Submission MakeSubmission(int number) {
  Submission submission;
  submission.request_id = "r" + std::to_string(number);
  submission.attempt = static_cast<uint32_t>(number);
  submission.cost = 10 * number;
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
    switch (frame.kind) {
      case kControl:
        return Control(static_cast<const v1::WorkerControl&>(*frame.message));
      case kData:
        return session_ == nullptr
                   ? absl::OkStatus()
                   : session_->OnData(static_cast<const v1::WorkerData&>(*frame.message), now_ns_);
      case kBulk:
        return session_ == nullptr
                   ? absl::OkStatus()
                   : session_->OnBulk(static_cast<const v1::WorkerBulk&>(*frame.message)).status();
      case kCancel:
        Cancel(static_cast<const v1::Cancel&>(*frame.message));
        return absl::OkStatus();
      default:
        now_ns_ += std::clamp<int64_t>(
                       static_cast<const v1::Welcome&>(*frame.message).heartbeat_ms(), 0, 10'000) *
                   1'000'000;
        return session_ == nullptr ? absl::OkStatus() : Verdict();
    }
  }

  void CheckBooks() const {
    if (session_ == nullptr) return;
    const WorkerInfo info = session_->Info();
    int64_t cost = 0;
    int32_t open = 0;
    for (const auto& [submission, listener] : submissions_) {
      if (listener->over()) continue;
      cost += submission.cost;
      ++open;
    }
    FATHOM_CHECK(info.in_flight_cost == cost, "the cost in flight is wrong");
    FATHOM_CHECK(info.in_flight == open, "the number in flight is wrong");
  }

  void Die() {
    if (session_ == nullptr) return;
    session_->Die({LossKind::kLeft, absl::UnavailableError("the end")});
    for (const auto& [submission, listener] : submissions_) {
      FATHOM_CHECK(listener->over(), "nobody told of the loss");
      FATHOM_CHECK(listener.use_count() == 1, "a listener was kept");
    }
    FATHOM_CHECK(session_->Info().in_flight_cost == 0, "cost of a dead worker");
  }

 private:
  absl::Status Verdict() {
    const auto loss = session_->Judge(now_ns_, 0);
    return loss ? loss->reason : absl::OkStatus();
  }

  absl::Status Control(const v1::WorkerControl& message) {
    if (session_ == nullptr) return Greet(message.hello());
    if (message.has_heartbeat()) session_->OnHeartbeat(message.heartbeat(), now_ns_);
    if (message.has_leaving()) session_->OnLeaving(message.leaving().reason());
    if (message.has_condemned()) {
      RETURN_IF_ERROR(condemned_.Hear(message.condemned()).status());
      FATHOM_CHECK(condemned_.All().size() <= kCondemnedMax, "more names than there is room for");
    }
    if (message.has_last_words()) {
      RETURN_IF_ERROR(condemned_.Hear(message.last_words()));
      session_->OnLastWords(message.last_words());
    }
    if (!message.has_model_state()) return absl::OkStatus();
    absl::Status status = session_->OnModelState(message.model_state());
    FATHOM_CHECK(session_->Info().models.size() <= kWorkerModelsMax, "too many models");
    return status;
  }

  absl::Status Greet(const v1::Hello& hello) {
    RETURN_IF_ERROR(CheckHello(hello));
    session_ = std::make_unique<WorkerSession>(
        hello, "session", absl::Milliseconds(250), absl::Seconds(3), now_ns_,
        std::make_shared<OpenSink<v1::MasterControl>>(), [](FleetNews) {});
    FATHOM_CHECK(session_->BindData(std::make_shared<OpenSink<v1::MasterData>>()), "no data");
    for (int number = 1; number <= 3; ++number) {
      const Submission submission = MakeSubmission(number);
      auto listener = std::make_shared<Listener>(submission);
      FATHOM_CHECK(session_->Submit(submission, listener, now_ns_).ok(), "not submitted");
      submissions_.emplace_back(submission, std::move(listener));
    }
    return absl::OkStatus();
  }

  void Cancel(const v1::Cancel& cancel) {
    if (session_ == nullptr) return;
    const std::vector<int32_t> choices(cancel.choices().begin(), cancel.choices().end());
    for (const auto& [submission, listener] : submissions_) {
      if (submission.request_id == cancel.request_id() && submission.attempt <= cancel.attempt() &&
          !listener->over()) {
        listener->Cancelled(choices);
      }
    }
    session_->Cancel(cancel.request_id(), cancel.attempt(), choices);
  }

  int64_t now_ns_ = kSecondNs;
  CondemnedNews condemned_{Clock::Real()};
  std::unique_ptr<WorkerSession> session_;
  std::vector<std::pair<Submission, std::shared_ptr<Listener>>> submissions_;
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
