// What masters may send a worker, in any order, while its engines put out tokens and masters are
// lost and come back: the engine sees only sane requests, every request is accounted for as by a
// book kept the long way, and the credits granted are never more than there is.

#include <algorithm>
#include <array>
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
#include "fuzz/request_model.h"
#include "master/fleet/condemned_news.h"
#include "master/fleet/link_messages.h"
#include "worker/cache_teller.h"
#include "worker/credits.h"
#include "worker/engine/validate.h"
#include "worker/link_messages.h"
#include "worker/request_table.h"

namespace fathom::worker {
namespace {

constexpr int64_t kCapacity = 1'000'000;
constexpr int kRunsMax = 4;
constexpr RequestTable::Limits kLimits{.hold_ns = 1'000'000'000, .held_bytes = 4096};

enum Kind : size_t {
  kSubmit,
  kSubmitOther,
  kControlOther,
  kOutput,
  kLose,
  kControl,
  kWait,
  kStep,
  kBulk,
  kWelcome
};

const fuzz::Frames& Messages() {
  // Two masters speak. Outputs are the engines' own, `step` is what they do by themselves, `lose`
  // ends a master's link (the second's where the epoch is odd), `wait` lets milliseconds pass.
  static const auto& frames =
      *new fuzz::Frames({{"submit", &v1::Submit::default_instance()},
                         {"submit-other", &v1::Submit::default_instance()},
                         {"control-other", &v1::MasterControl::default_instance()},
                         {"output", &v1::StepOutput::default_instance()},
                         {"lose", &v1::Drain::default_instance()},
                         {"control", &v1::MasterControl::default_instance()},
                         {"wait", &v1::MasterControl::default_instance()},
                         {"step", &v1::Drain::default_instance()},
                         {"bulk", &v1::MasterBulk::default_instance()},
                         {"welcome", &v1::Drain::default_instance()}});
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
  Worker() {
    for (uint64_t i = 0; i < 3; ++i) cache_.Apply("m", {.stored = {{i, 1}}, .evicted = {}});
  }

  void Take(const fuzz::Frame& frame) {
    ++now_ns_;
    switch (frame.kind) {
      case kSubmit:
      case kSubmitOther:
        return Submit(static_cast<const v1::Submit&>(*frame.message),
                      masters_[frame.kind == kSubmit ? 0 : 1]);
      case kControl:
      case kControlOther:
        return Control(static_cast<const v1::MasterControl&>(*frame.message),
                       masters_[frame.kind == kControl ? 0 : 1]);
      case kOutput:
        return Output(static_cast<const v1::StepOutput&>(*frame.message));
      case kLose:
        return Lose(masters_[static_cast<const v1::Drain&>(*frame.message).epoch() % 2]);
      case kWelcome:
        return Welcome(masters_[static_cast<const v1::Drain&>(*frame.message).epoch() % 2]);
      case kBulk:
        return Bulk(static_cast<const v1::MasterBulk&>(*frame.message));
      case kStep:
        return model_.Step();
      default:
        Wait(static_cast<const v1::MasterControl&>(*frame.message).heartbeat().backlog_cost());
    }
  }

  void CheckBooks() const {
    model_.Check();
    std::vector<CreditClaim> claims;
    for (const Peer& master : masters_) {
      claims.push_back({table_.in_flight(master.id), master.backlog});
      FATHOM_CHECK(claims.back().in_flight >= 0, "less than nothing");
    }
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
    for (Peer& master : masters_) Lose(master);
    Wait(std::numeric_limits<int64_t>::max());
    FATHOM_CHECK(table_.unfinished() == 0 && table_.held_bytes() == 0, "something was kept");
    FATHOM_CHECK(table_.unowned_cost() == 0, "cost of nothing");
    model_.Step();
    FATHOM_CHECK(model_.empty(), "an engine was not told");
    FATHOM_CHECK(table_.MayTakeOn(""), "what is gone is alone");
    FATHOM_CHECK(table_.LastWords(kRunsMax).runs_size() == 0, "last words of what is gone");
  }

 private:
  // A master; every link of it has another number.
  struct Peer {
    LinkId id = kNoLink;
    std::string who;
    int64_t backlog = 0;
  };

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

  void Submit(const v1::Submit& message, const Peer& master) {
    const auto request = FromMessage(message, now_ns_);
    fuzz::CheckSound(0, request.status());
    if (!request.ok()) return;
    CheckRequest(*request);
    if (!table_.MayTakeOn(message.request_id())) return;
    if (model_.Knows(request->id, request->attempt)) return;
    RequestTable::Brief brief = RequestTable::BriefOf(*request, message.model());
    brief.fingerprint = message.fingerprint();
    brief.crashes = message.crashes();
    model_.Add(brief, master.id, message.cost(), message.resume_context());
    FATHOM_CHECK(message.crashes() == 0 || !table_.MayTakeOn(""), "not alone");
  }

  void Control(const v1::MasterControl& message, Peer& master) {
    if (message.has_heartbeat()) master.backlog = message.heartbeat().backlog_cost();
    if (message.has_cancel()) model_.Cancel(message.cancel(), master.id);
    if (!message.has_claim()) return;
    const RequestTable::Handover handover = table_.Claim(message.claim(), master.id);
    model_.Claim(message.claim(), master.id, handover);
    for (const v1::StepOutput& output : handover.answer.outputs()) {
      FATHOM_CHECK(master::FromMessage(output).ok(), "an answer that masters refuse");
    }
    for (const v1::StepOutput& output : handover.farewell) {
      FATHOM_CHECK(master::FromMessage(output).ok(), "a farewell that masters refuse");
    }
  }

  void Lose(Peer& master) {
    table_.Disown(master.id, master.who, now_ns_);
    model_.Disown(master.id, master.who);
    master.id += masters_.size();
    master.backlog = 0;
    Wait(0);
  }
  void Welcome(const Peer& master) { model_.ForsakenBy(master.who, table_.ForsakenBy(master.who)); }
  void Wait(int64_t ms) {
    now_ns_ += std::clamp<int64_t>(ms, 0, 1'000'000) * 1'000'000;
    model_.GiveUp(table_.Expire(now_ns_));
    FATHOM_CHECK(table_.held_bytes() <= kLimits.held_bytes, "more is held than may be");
  }

  void Bulk(const v1::MasterBulk& message) {
    if (!message.has_resync_page()) return;
    const uint64_t before = listener_.sequence;
    const auto page = cache_.Page(message.resync_page(), &listener_);
    FATHOM_CHECK(page.has_value() || listener_.sequence == before, "a number for nothing");
    FATHOM_CHECK(!page || (page->kv_events().sequence() == before + 1 &&
                           page->kv_events().stored_size() <= 3),
                 "a page of more than there is");
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
    model_.Record(output);
    const auto back = master::FromMessage(ToMessage(output));
    FATHOM_CHECK(back.ok() && back->tokens == output.tokens && back->finish == output.finish &&
                     back->logprobs.size() == output.logprobs.size(),
                 "an output comes back otherwise");
  }

  int64_t now_ns_ = 1;
  std::array<Peer, 2> masters_ = {Peer{.id = 1, .who = "first"}, Peer{.id = 2, .who = "second"}};
  RequestTable table_{kLimits};
  RequestModel model_{&table_};
  CacheTeller cache_;
  CacheTeller::Listener listener_;
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
