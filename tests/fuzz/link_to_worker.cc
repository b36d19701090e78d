// What masters may send a worker, in any order: the engine sees only sane requests, no request is
// lost track of, and the credits granted are never more than there is.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "fathom/v1/link.pb.h"
#include "fuzz/feedback.h"
#include "fuzz/frames.h"
#include "master/fleet/condemned_news.h"
#include "master/fleet/link_messages.h"
#include "worker/credits.h"
#include "worker/engine/validate.h"
#include "worker/link_messages.h"
#include "worker/request_table.h"

namespace fathom::worker {
namespace {

constexpr int64_t kCapacity = 1'000'000;
constexpr int kRunsMax = 4;
constexpr RequestTable::Limits kLimits{.hold_ns = 1'000'000'000, .held_bytes = 4096};

enum Kind : size_t { kSubmit, kSubmitOther, kControl, kOutput, kLose };

const fuzz::Frames& Messages() {
  // Two masters submit; outputs are the engine's own, and `lose` ends the first master's link.
  static const auto& frames =
      *new fuzz::Frames({{"submit", &v1::Submit::default_instance()},
                         {"submit-other", &v1::Submit::default_instance()},
                         {"control", &v1::MasterControl::default_instance()},
                         {"output", &v1::StepOutput::default_instance()},
                         {"lose", &v1::Drain::default_instance()}});
  return frames;
}

const EngineOptions& Options() {
  static const auto& options = *new EngineOptions([] {
    EngineOptions made;
    made.vocab_size = 1000;
    made.max_context = 512;
    made.kv.block_tokens = 16;
    made.plan.num_blocks = {256};
    return made;
  }());
  return options;
}

void CheckRequest(const EngineRequest& request) {
  FATHOM_CHECK(!request.id.empty() && request.attempt > 0, "a request without a name");
  FATHOM_CHECK(!request.prompt.empty() && !request.choices.empty(), "nothing to do");
  FATHOM_CHECK(request.stop.max_tokens >= 1 && request.stop.min_tokens >= 0, "tokens");
  FATHOM_CHECK(request.sampling.temperature >= 0 && request.sampling.temperature <= 100,
               "sampling");
  FATHOM_CHECK(request.deadline_ns >= 0, "a deadline before time began");
  const absl::Status valid = ValidateRequest(request, Options(), /*has_grammars=*/true);
  fuzz::CheckSound(1, valid);
  if (!valid.ok()) return;
  const int32_t length = MaxLength(request, Options());
  FATHOM_CHECK(length <= Options().max_context, "longer than the context");
  FATHOM_CHECK(request.prompt.size() < static_cast<size_t>(length), "no room for a token");
}

class Worker {
 public:
  void Take(const fuzz::Frame& frame) {
    ++now_ns_;
    switch (frame.kind) {
      case kSubmit:
      case kSubmitOther:
        return Submit(static_cast<const v1::Submit&>(*frame.message),
                      frame.kind == kSubmit ? 1 : 2);
      case kControl:
        return Control(static_cast<const v1::MasterControl&>(*frame.message));
      case kOutput:
        return Output(static_cast<const v1::StepOutput&>(*frame.message));
      default:
        table_.Disown(1, "first", now_ns_);
        table_.Expire(now_ns_);
    }
  }

  void CheckBooks() const {
    const std::vector<CreditClaim> claims = {{table_.in_flight(1), backlog_},
                                             {table_.in_flight(2), 1}};
    FATHOM_CHECK(claims[0].in_flight >= 0 && claims[1].in_flight >= 0, "less than nothing");
    FATHOM_CHECK(table_.unowned_cost() >= 0 && table_.unfinished() >= 0, "less than nothing");
    const std::vector<int64_t> credits = GrantCredits(kCapacity, table_.unowned_cost(), claims);
    int64_t granted = 0;
    for (size_t i = 0; i < claims.size(); ++i) {
      FATHOM_CHECK(credits[i] >= claims[i].in_flight, "less credit than is in flight");
      granted += credits[i] - claims[i].in_flight;
    }
    FATHOM_CHECK(granted <= kCapacity, "more than there is");
    CheckLastWords();
  }

  void End() {
    table_.Disown(1, "first", now_ns_);
    table_.Disown(2, "second", now_ns_);
    table_.Expire(std::numeric_limits<int64_t>::max());
    FATHOM_CHECK(table_.unfinished() == 0 && table_.held_bytes() == 0, "something was kept");
    FATHOM_CHECK(table_.unowned_cost() == 0, "cost of nothing");
    // The engine ends what it was given.
    for (const SequenceOutput& end : ends_) table_.Record(end);
    FATHOM_CHECK(table_.MayTakeOn(""), "what is gone is alone");
    FATHOM_CHECK(table_.LastWords(kRunsMax).runs_size() == 0, "last words of what is gone");
  }

 private:
  // Masters take them, and one alone has something behind it.
  void CheckLastWords() const {
    const v1::LastWords words = table_.LastWords(kRunsMax);
    FATHOM_CHECK(news_.Hear(words).ok(), "last words that masters refuse");
    // One may be on its way out.
    FATHOM_CHECK(words.runs_size() <= std::min(kRunsMax, table_.unfinished() + 1),
                 "too many of them");
    for (int i = 1; i < words.runs_size(); ++i) {
      FATHOM_CHECK(words.runs(i).crashes() == 0, "two that are alone");
    }
  }

  void Submit(const v1::Submit& message, LinkId owner) {
    const auto request = FromMessage(message, now_ns_);
    fuzz::CheckSound(0, request.status());
    if (!request.ok()) return;
    CheckRequest(*request);
    if (!table_.MayTakeOn(message.request_id())) return;
    RequestTable::Brief brief = RequestTable::BriefOf(*request, message.model());
    brief.fingerprint = message.fingerprint();
    brief.crashes = message.crashes();
    for (const ChoiceStart& choice : brief.choices) {
      SequenceOutput& end = ends_.emplace_back();
      end.request_id = brief.id;
      end.attempt = brief.attempt;
      end.choice = choice.index;
      end.finish = FinishReason::kCancelled;
    }
    table_.Add(std::move(brief), owner, message.cost(), message.resume_context());
    FATHOM_CHECK(message.crashes() == 0 || !table_.MayTakeOn(""), "not alone");
  }

  void Control(const v1::MasterControl& message) {
    if (message.has_heartbeat()) backlog_ = message.heartbeat().backlog_cost();
    if (!message.has_claim()) return;
    const RequestTable::Handover handover = table_.Claim(message.claim(), 2);
    FATHOM_CHECK(handover.answer.found() || handover.farewell.empty(), "taken from nobody");
    for (const v1::StepOutput& output : handover.answer.outputs()) {
      FATHOM_CHECK(master::FromMessage(output).ok(), "an answer that masters refuse");
    }
  }

  void Output(const v1::StepOutput& message) {
    const auto read = master::FromMessage(message);
    if (!read.ok()) return;
    SequenceOutput output;
    output.request_id = message.request_id();
    output.attempt = read->attempt;
    output.choice = read->choice;
    output.first_index = read->first_index;
    output.tokens = read->tokens;
    output.logprobs = read->logprobs;
    output.finish = read->finish;
    table_.Record(output);
    const auto back = master::FromMessage(ToMessage(output));
    FATHOM_CHECK(back.ok() && back->tokens == output.tokens && back->finish == output.finish &&
                     back->logprobs.size() == output.logprobs.size(),
                 "an output comes back otherwise");
  }

  int64_t now_ns_ = 1;
  int64_t backlog_ = 0;
  std::vector<SequenceOutput> ends_;  // of all that was submitted
  RequestTable table_{kLimits};
  const master::CondemnedNews news_{Clock::Real()};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Worker worker;
  for (const fuzz::Frame& frame : Messages().Read(data, size)) {
    worker.Take(frame);
    worker.CheckBooks();
  }
  worker.End();
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t size_max,
                                          unsigned seed) {
  return Messages().Mutate(data, size, size_max, seed);
}

}  // namespace fathom::worker
