#include "worker/request_table.h"

#include <algorithm>
#include <utility>

namespace fathom::worker {
namespace {

// A master may claim any cost; sums of these still fit.
constexpr int64_t kCostMax = int64_t{1} << 40;
// Of what runs alone, as link_data.proto has it.
constexpr int64_t kTokensToClear = 8;

}  // namespace

size_t RequestTable::Entry::bytes() const {
  size_t bytes = sizeof(Entry) + resume_context.size() + fingerprint.size();
  for (const Choice& choice : choices) {
    bytes += sizeof(Choice) + choice.tokens.size() * sizeof(TokenId);
  }
  return bytes;
}

RequestTable::Brief RequestTable::BriefOf(const EngineRequest& request, std::string model) {
  return {.id = request.id,
          .attempt = request.attempt,
          .model = std::move(model),
          .choices = request.choices,
          .with_logprobs = request.logprobs.output || request.logprobs.prompt.has_value(),
          .fingerprint = {}};
}

bool RequestTable::MayTakeOn(const std::string& id) const {
  if (!leaving_.empty() && leaving_.front().id != id) return false;
  if (alone_ == nullptr) return true;
  const auto same = entries_.find(id);
  return same != entries_.end() && &same->second == alone_;
}

RequestTable::Superseded RequestTable::Add(Brief request, LinkId owner, int64_t cost,
                                           std::string resume_context) {
  Superseded superseded;
  const auto old = entries_.find(request.id);
  if (old != entries_.end()) {
    if (old->second.owner != owner) {
      superseded.previous = old->second.owner;
      superseded.farewell = Farewell(request.id, old->second);
    }
    const bool runs = !old->second.finished && old->second.model != request.model;
    Ref ref = Take(old);
    if (runs) superseded.elsewhere = std::move(ref);
  }
  Entry entry;
  entry.attempt = request.attempt;
  entry.model = std::move(request.model);
  entry.owner = owner;
  entry.cost = std::clamp<int64_t>(cost, 0, kCostMax);
  entry.resume_context = std::move(resume_context);
  entry.with_logprobs = request.with_logprobs;
  for (ChoiceStart& start : request.choices) {
    Choice choice;
    choice.index = start.index;
    choice.tokens = std::move(start.tokens);
    entry.choices.push_back(std::move(choice));
  }
  Load& load = loads_[entry.model];
  load.in_flight[owner] += entry.cost;
  ++load.unfinished;
  entry.fingerprint = std::move(request.fingerprint);
  entry.crashes = request.crashes;
  const Entry& added = entries_.emplace(std::move(request.id), std::move(entry)).first->second;
  if (added.crashes > 0) alone_ = &added;
  return superseded;
}

std::optional<RequestTable::Route> RequestTable::Record(const SequenceOutput& output) {
  RecordLeaving(output);
  const auto it = entries_.find(output.request_id);
  if (it == entries_.end() || it->second.attempt != output.attempt) return std::nullopt;
  Entry& entry = it->second;
  const auto choice = std::find_if(entry.choices.begin(), entry.choices.end(),
                                   [&](const Choice& c) { return c.index == output.choice; });
  if (choice == entry.choices.end() || choice->finish != FinishReason::kNone) return std::nullopt;

  const bool held = entry.owner == kNoLink;
  choice->tokens.insert(choice->tokens.end(), output.tokens.begin(), output.tokens.end());
  choice->cached_tokens = std::max(choice->cached_tokens, output.cached_tokens);
  choice->finish = output.finish;
  choice->error = output.error;
  choice->bad_request = output.bad_request;
  if (held) held_bytes_ += output.tokens.size() * sizeof(TokenId);
  entry.tokens_here += static_cast<int64_t>(output.tokens.size());
  if (entry.tokens_here >= kTokensToClear) {
    entry.crashes = 0;
    if (alone_ == &entry) alone_ = nullptr;
  }
  Route route{entry.owner, std::all_of(entry.choices.begin(), entry.choices.end(),
                                       [](auto& c) { return c.finish != FinishReason::kNone; })};
  if (route.last) {
    Finish(entry);
    if (!held) Erase(it);
  }
  return route;
}

void RequestTable::RecordLeaving(const SequenceOutput& output) {
  if (output.finish == FinishReason::kNone) return;
  for (Leaving& leaving : leaving_) {
    if (leaving.id != output.request_id || leaving.attempt != output.attempt) continue;
    std::erase(leaving.open, output.choice);
  }
  std::erase_if(leaving_, [](const Leaving& leaving) { return leaving.open.empty(); });
}

void RequestTable::Disown(LinkId owner, const std::string& who, int64_t now_ns) {
  for (auto& [id, entry] : entries_) {
    if (entry.owner != owner) continue;
    loads_[entry.model].in_flight[kNoLink] += entry.cost;
    entry.owner = kNoLink;
    entry.forsaken_by = who;
    entry.expires_at_ns = now_ns + limits_.hold_ns;
    entry.held = held_.insert(held_.end(), id);
    held_bytes_ += entry.bytes();
  }
  for (auto& [model, load] : loads_) load.in_flight.erase(owner);
}

std::vector<RequestTable::Ref> RequestTable::Expire(int64_t now_ns) {
  std::vector<Ref> gone;
  while (!held_.empty()) {
    const auto it = entries_.find(held_.front());
    if (it->second.expires_at_ns > now_ns && held_bytes_ <= limits_.held_bytes) break;
    gone.push_back(Take(it));
  }
  return gone;
}

std::vector<RequestTable::Ref> RequestTable::ForsakenBy(const std::string& who) {
  std::vector<Ref> gone;
  for (auto id = held_.begin(); id != held_.end();) {
    const auto it = entries_.find(*id++);
    if (it->second.forsaken_by == who) gone.push_back(Take(it));
  }
  return gone;
}

// What tells the master that owned it that each choice has ended for it.
std::vector<v1::StepOutput> RequestTable::Farewell(const std::string& id, const Entry& entry) {
  std::vector<v1::StepOutput> outputs;
  for (const Choice& choice : entry.choices) {
    if (entry.owner == kNoLink || choice.finish != FinishReason::kNone) continue;
    v1::StepOutput& output = outputs.emplace_back();
    output.set_request_id(id);
    output.set_attempt(entry.attempt);
    output.set_choice(choice.index);
    output.set_first_index(static_cast<int32_t>(choice.tokens.size()));
    output.set_finish(static_cast<int32_t>(FinishReason::kCancelled));
    output.set_error("another master has taken the request over");
    output.set_taken_over(true);
  }
  return outputs;
}

RequestTable::Handover RequestTable::Claim(const v1::Claim& claim, LinkId owner) {
  Handover handover;
  handover.answer.set_request_id(claim.request_id());
  const auto it = entries_.find(claim.request_id());
  if (it == entries_.end() || it->second.owner == owner) return handover;
  Entry& entry = it->second;
  if (entry.resume_context.empty() || entry.resume_context != claim.resume_context()) {
    handover.answer.set_other_context(true);
    return handover;
  }
  handover.answer.set_attempt(entry.attempt);
  handover.farewell = Farewell(claim.request_id(), entry);
  handover.previous = entry.owner;
  const bool other_model = !claim.model().empty() && claim.model() != entry.model;
  if (entry.with_logprobs || other_model) {
    handover.given_up = Take(it);
    return handover;
  }
  handover.answer.set_found(true);
  for (const Choice& choice : entry.choices) {
    v1::StepOutput* output = handover.answer.add_outputs();
    output->set_request_id(claim.request_id());
    output->set_attempt(entry.attempt);
    output->set_choice(choice.index);
    output->mutable_tokens()->Add(choice.tokens.begin(), choice.tokens.end());
    output->set_finish(static_cast<int32_t>(choice.finish));
    output->set_error(choice.error);
    output->set_bad_request(choice.bad_request);
    output->set_cached_tokens(choice.cached_tokens);
  }
  if (entry.owner == kNoLink) {
    held_bytes_ -= entry.bytes();
    held_.erase(entry.held);
  }
  if (!entry.finished) {
    std::map<LinkId, int64_t>& in_flight = loads_[entry.model].in_flight;
    in_flight[entry.owner] -= entry.cost;
    in_flight[owner] += entry.cost;
  }
  entry.owner = owner;
  if (entry.finished) entries_.erase(it);
  return handover;
}

bool RequestTable::IsOfAnother(const std::string& id, LinkId owner) const {
  const auto it = entries_.find(id);
  return it != entries_.end() && it->second.owner != owner;
}

v1::LastWords::Run RequestTable::RunOf(const Entry& entry) {
  v1::LastWords::Run run;
  run.set_fingerprint(entry.fingerprint);
  run.set_crashes(entry.crashes);
  return run;
}

v1::LastWords RequestTable::LastWords(int max) const {
  v1::LastWords words;
  const auto add = [&](const Entry& entry) {
    if (entry.finished || entry.fingerprint.empty() || words.runs_size() >= max) return;
    *words.add_runs() = RunOf(entry);
  };
  // Its next attempt has the same name, and masters take one alone that has crashed before.
  const bool named = !leaving_.empty() && !leaving_.back().run.fingerprint().empty();
  if (named && !entries_.contains(leaving_.back().id) && max > 0) {
    *words.add_runs() = leaving_.back().run;
  }
  if (alone_ != nullptr) add(*alone_);
  for (const auto& [id, entry] : entries_) {
    if (&entry != alone_) add(entry);
  }
  return words;
}

const std::string* RequestTable::ModelOf(const std::string& id) const {
  const auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : &it->second.model;
}

int64_t RequestTable::in_flight(LinkId owner) const {
  int64_t sum = 0;
  for (const auto& [model, load] : loads_) sum += in_flight(owner, model);
  return sum;
}

int64_t RequestTable::in_flight(LinkId owner, const std::string& model) const {
  const auto load = loads_.find(model);
  if (load == loads_.end()) return 0;
  const auto it = load->second.in_flight.find(owner);
  return it == load->second.in_flight.end() ? 0 : it->second;
}

int RequestTable::unfinished() const {
  int sum = 0;
  for (const auto& [model, load] : loads_) sum += load.unfinished;
  return sum;
}

int RequestTable::unfinished(const std::string& model) const {
  const auto load = loads_.find(model);
  return load == loads_.end() ? 0 : load->second.unfinished;
}

void RequestTable::Finish(Entry& entry) {
  if (std::exchange(entry.finished, true)) return;
  if (alone_ == &entry) alone_ = nullptr;
  const auto load = loads_.find(entry.model);
  load->second.in_flight[entry.owner] -= entry.cost;
  if (--load->second.unfinished == 0) loads_.erase(load);
}

void RequestTable::Erase(Map::iterator it) {
  Finish(it->second);
  if (it->second.owner == kNoLink) {
    held_bytes_ -= it->second.bytes();
    held_.erase(it->second.held);
  }
  entries_.erase(it);
}

RequestTable::Ref RequestTable::Take(Map::iterator it) {
  Ref ref{it->first, it->second.attempt, it->second.model};
  if (alone_ == &it->second) {
    // An engine ends an earlier attempt before a later one.
    std::erase_if(leaving_, [&ref](const Leaving& l) { return l.model == ref.model; });
    Leaving& leaving = leaving_.emplace_back();
    leaving = {.id = ref.id,
               .attempt = ref.attempt,
               .model = ref.model,
               .open = {},
               .run = RunOf(*alone_)};
    for (const Choice& choice : alone_->choices) {
      if (choice.finish == FinishReason::kNone) leaving.open.push_back(choice.index);
    }
  }
  Erase(it);
  return ref;
}

}  // namespace fathom::worker
