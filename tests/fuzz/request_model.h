#pragma once

// What a worker's RequestTable has to say, by a book that is kept the long way: every request ever
// taken on, with what the engines still have of it. Engines are played too: they end what they are
// told to cancel some time later, and the attempt that another one supersedes before anything of
// that one.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "worker/request_table.h"

namespace fathom::worker {

struct ModelJob {
  struct Choice {
    int32_t index = 0;
    std::vector<TokenId> tokens;
    FinishReason finish = FinishReason::kNone;  // in its engine
  };

  RequestTable::Brief brief;
  LinkId owner = kNoLink;
  int64_t cost = 0;
  std::string context;
  std::string forsaken_by;
  std::vector<Choice> choices;
  int64_t tokens_here = 0;
  bool known = true;    // to the table
  bool doomed = false;  // its engine has been told to end it
  bool alone = false;   // nothing else may be taken on

  bool runs() const {
    return std::any_of(choices.begin(), choices.end(),
                       [](const Choice& c) { return c.finish == FinishReason::kNone; });
  }
  Choice* open(int32_t index) {
    for (Choice& choice : choices) {
      if (choice.index == index && choice.finish == FinishReason::kNone) return &choice;
    }
    return nullptr;
  }
};

class RequestModel {
 public:
  explicit RequestModel(RequestTable* table) : table_(*table) {}

  // As an engine would refuse it.
  bool Knows(const std::string& id, uint32_t attempt) const {
    return std::any_of(jobs_.begin(), jobs_.end(), [&](const ModelJob& job) {
      return job.runs() && job.brief.id == id && job.brief.attempt >= attempt;
    });
  }

  void Add(const RequestTable::Brief& brief, LinkId owner, int64_t cost,
           const std::string& context) {
    ModelJob* const old = Known(brief.id);
    const RequestTable::Superseded superseded = table_.Add(brief, owner, cost, context);
    if (old == nullptr) {
      FATHOM_CHECK(!superseded.elsewhere && superseded.farewell.empty(), "superseded nothing");
    } else {
      if (old->owner != owner) CheckFarewell(*old, superseded.previous, superseded.farewell);
      FATHOM_CHECK(old->owner != owner || superseded.farewell.empty(), "a farewell to its own");
      const bool elsewhere = old->runs() && old->brief.model != brief.model;
      FATHOM_CHECK(superseded.elsewhere.has_value() == elsewhere, "its engine is not told");
      old->known = false;
      old->doomed = true;
    }
    ModelJob& job = jobs_.emplace_back();
    job.brief = brief;
    job.owner = owner;
    job.cost = std::clamp<int64_t>(cost, 0, int64_t{1} << 40);
    job.context = context;
    job.alone = brief.crashes > 0;
    for (const ChoiceStart& start : brief.choices) {
      job.choices.push_back({.index = start.index, .tokens = start.tokens});
    }
  }

  // An engine puts this out, if it has such a thing.
  void Record(SequenceOutput output) {
    ModelJob* const job = Running(output.request_id, output.attempt);
    ModelJob::Choice* const choice = job == nullptr ? nullptr : job->open(output.choice);
    if (choice == nullptr) {
      FATHOM_CHECK(!table_.Record(output), "an output of nothing");
      return;
    }
    EndOlder(*job);
    output.first_index = static_cast<int32_t>(choice->tokens.size());
    choice->tokens.insert(choice->tokens.end(), output.tokens.begin(), output.tokens.end());
    choice->finish = output.finish;
    const bool last = !job->runs();
    const auto route = table_.Record(output);
    FATHOM_CHECK(route.has_value() == job->known, "an output that goes nowhere, or astray");
    if (job->known) {
      job->tokens_here += static_cast<int64_t>(output.tokens.size());
      if (job->tokens_here >= 8) job->alone = false;
      FATHOM_CHECK(route->owner == job->owner && route->last == last, "an output goes astray");
      if (last && job->owner != kNoLink) job->known = false;
    }
    if (last) job->alone = false;
  }

  void Claim(const v1::Claim& claim, LinkId owner, const RequestTable::Handover& handover) {
    const v1::Claimed& answer = handover.answer;
    ModelJob* const job = Known(claim.request_id());
    if (job == nullptr || job->owner == owner) {
      FATHOM_CHECK(!answer.found() && answer.attempt() == 0, "found what is not there");
      return;
    }
    const bool same = !job->context.empty() && job->context == claim.resume_context();
    FATHOM_CHECK(answer.other_context() == !same, "taken for another, or not");
    if (!same) {
      FATHOM_CHECK(!answer.found() && handover.farewell.empty(), "another's request");
      return;
    }
    CheckFarewell(*job, handover.previous, handover.farewell);
    FATHOM_CHECK(answer.attempt() == job->brief.attempt, "another attempt");
    const bool fits = claim.model().empty() || claim.model() == job->brief.model;
    FATHOM_CHECK(answer.found() == (fits && !job->brief.with_logprobs), "found, or given up");
    FATHOM_CHECK(handover.given_up.has_value() != answer.found(), "neither kept nor given up");
    if (handover.given_up) return GiveUp({*handover.given_up});
    CheckTokens(*job, answer);
    job->owner = owner;
    job->forsaken_by.clear();
    job->known = job->runs();
  }

  void Cancel(const v1::Cancel& cancel, LinkId owner) {
    ModelJob* const job = Known(cancel.request_id());
    FATHOM_CHECK(
        table_.IsOfAnother(cancel.request_id(), owner) == (job != nullptr && job->owner != owner),
        "whose it is");
    const std::string* const model = table_.ModelOf(cancel.request_id());
    FATHOM_CHECK(model == nullptr ? job == nullptr : *model == job->brief.model, "of which model");
    if (job == nullptr || job->owner != owner || job->brief.attempt > cancel.attempt()) return;
    const auto& named = cancel.choices();
    for (const ModelJob::Choice& choice : std::vector(job->choices)) {
      const bool meant =
          named.empty() || std::find(named.begin(), named.end(), choice.index) != named.end();
      if (meant && job->open(choice.index) != nullptr) EndChoice(*job, choice.index);
    }
  }

  void Disown(LinkId owner, const std::string& who) {
    for (ModelJob& job : jobs_) {
      if (!job.known || job.owner != owner) continue;
      job.owner = kNoLink;
      job.forsaken_by = who;
    }
  }

  // What came back is what that master left, and no more.
  void ForsakenBy(const std::string& who, const std::vector<RequestTable::Ref>& refs) {
    GiveUp(refs);
    for (const ModelJob& job : jobs_) {
      FATHOM_CHECK(!job.known || job.owner != kNoLink || job.forsaken_by != who, "still held");
    }
  }

  // The table has let go of these; their engines are told.
  void GiveUp(const std::vector<RequestTable::Ref>& refs) {
    for (const RequestTable::Ref& ref : refs) {
      ModelJob* const job = Known(ref.id);
      FATHOM_CHECK(job != nullptr && job->brief.attempt == ref.attempt,
                   "gives up what is not here");
      FATHOM_CHECK(job->brief.model == ref.model, "given up at another's engine");
      job->known = false;
      job->doomed = true;
    }
  }

  // The engines come round: what was cancelled has ended.
  void Step() {
    for (ModelJob& job : jobs_) {
      if (job.doomed) End(job);
    }
    std::erase_if(jobs_, [](const ModelJob& job) { return !job.known && !job.runs(); });
  }

  bool empty() const { return jobs_.empty(); }

  void Check() const {
    std::set<LinkId> owners = {kNoLink};
    std::set<std::string> models;
    for (const ModelJob& job : jobs_) {
      owners.insert(job.owner);
      models.insert(job.brief.model);
    }
    for (const LinkId owner : owners) {
      int64_t cost = 0;
      for (const ModelJob& job : jobs_) cost += Counts(job) && job.owner == owner ? job.cost : 0;
      FATHOM_CHECK(table_.in_flight(owner) == cost, "the cost in flight is wrong");
    }
    for (const std::string& model : models) {
      const auto unfinished = std::count_if(jobs_.begin(), jobs_.end(), [&](const ModelJob& job) {
        return Counts(job) && job.brief.model == model;
      });
      FATHOM_CHECK(table_.unfinished(model) == unfinished, "the number in flight is wrong");
    }
    const auto held = std::count_if(jobs_.begin(), jobs_.end(), [](const ModelJob& job) {
      return job.known && job.owner == kNoLink;
    });
    FATHOM_CHECK(held > 0 || table_.held_bytes() == 0, "bytes of nothing");
    CheckAlone();
  }

 private:
  static bool Counts(const ModelJob& job) { return job.known && job.runs(); }

  ModelJob* Known(const std::string& id) {
    for (ModelJob& job : jobs_) {
      if (job.known && job.brief.id == id) return &job;
    }
    return nullptr;
  }
  ModelJob* Running(const std::string& id, uint32_t attempt) {
    for (ModelJob& job : jobs_) {
      if (job.runs() && job.brief.id == id && job.brief.attempt == attempt) return &job;
    }
    return nullptr;
  }

  void CheckAlone() const {
    std::multiset<std::string> names;
    bool alone = false;
    for (const ModelJob& job : jobs_) {
      const bool holds_place = job.alone && job.runs();
      alone = alone || holds_place;
      FATHOM_CHECK(!holds_place || table_.MayTakeOn(job.brief.id), "its own next attempt waits");
      if (Counts(job) && !job.brief.fingerprint.empty()) names.insert(job.brief.fingerprint);
    }
    FATHOM_CHECK(table_.MayTakeOn("nobody's") != alone, "alone, or not");
    const v1::LastWords words = table_.LastWords(1024);
    for (const v1::LastWords::Run& run : words.runs()) {
      const auto name = names.find(run.fingerprint());
      if (name != names.end()) {
        names.erase(name);
      } else {
        FATHOM_CHECK(alone && &run == &words.runs(0), "last words of what is not here");
      }
    }
    FATHOM_CHECK(names.empty(), "last words leave something out");
  }

  static void CheckFarewell(const ModelJob& job, LinkId previous,
                            const std::vector<v1::StepOutput>& farewell) {
    FATHOM_CHECK(previous == job.owner, "taken from another");
    size_t said = 0;
    for (const ModelJob::Choice& choice : job.choices) {
      if (choice.finish != FinishReason::kNone || job.owner == kNoLink) continue;
      FATHOM_CHECK(said < farewell.size(), "no farewell");
      const v1::StepOutput& output = farewell[said++];
      FATHOM_CHECK(output.choice() == choice.index && output.taken_over() &&
                       output.attempt() == job.brief.attempt &&
                       output.first_index() == static_cast<int32_t>(choice.tokens.size()),
                   "the farewell of another");
    }
    FATHOM_CHECK(said == farewell.size(), "too many farewells");
  }

  static void CheckTokens(const ModelJob& job, const v1::Claimed& answer) {
    FATHOM_CHECK(answer.outputs_size() == static_cast<int>(job.choices.size()), "choices");
    for (int i = 0; i < answer.outputs_size(); ++i) {
      const v1::StepOutput& output = answer.outputs(i);
      const ModelJob::Choice& choice = job.choices[i];
      FATHOM_CHECK(output.choice() == choice.index && output.first_index() == 0 &&
                       output.finish() == static_cast<int32_t>(choice.finish) &&
                       std::equal(output.tokens().begin(), output.tokens().end(),
                                  choice.tokens.begin(), choice.tokens.end()),
                   "another's tokens");
    }
  }

  void EndChoice(ModelJob& job, int32_t index) {
    SequenceOutput end;
    end.request_id = job.brief.id;
    end.attempt = job.brief.attempt;
    end.choice = index;
    end.finish = FinishReason::kCancelled;
    Record(std::move(end));
  }
  void End(ModelJob& job) {
    for (const ModelJob::Choice& choice : std::vector(job.choices)) {
      if (job.open(choice.index) != nullptr) EndChoice(job, choice.index);
    }
  }
  // An engine ends what is superseded before it begins what supersedes it.
  void EndOlder(const ModelJob& job) {
    for (ModelJob& older : jobs_) {
      if (&older == &job) return;
      const bool same = older.brief.id == job.brief.id && older.brief.model == job.brief.model;
      if (same && older.doomed) End(older);
    }
  }

  RequestTable& table_;
  std::deque<ModelJob> jobs_;  // in the order in which they came
};

}  // namespace fathom::worker
