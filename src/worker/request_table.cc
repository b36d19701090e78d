#include "worker/request_table.h"

#include <algorithm>
#include <utility>

namespace fathom::worker {
namespace {

// A master may claim any cost; sums of these still fit.
constexpr int64_t kCostMax = int64_t{1} << 40;

}  // namespace

size_t RequestTable::Entry::bytes() const {
  size_t bytes = sizeof(Entry) + resume_context.size();
  for (const Choice& choice : choices) {
    bytes += sizeof(Choice) + choice.tokens.size() * sizeof(TokenId);
  }
  return bytes;
}

RequestTable::Brief RequestTable::BriefOf(const EngineRequest& request) {
  Brief brief{request.id, request.attempt, {}, false};
  brief.with_logprobs = request.logprobs.output || request.logprobs.prompt.has_value();
  for (const ChoiceStart& choice : request.choices) {
    brief.choices.emplace_back(choice.index, static_cast<int32_t>(choice.tokens.size()));
  }
  return brief;
}

void RequestTable::Add(Brief request, LinkId owner, int64_t cost, std::string resume_context) {
  const auto old = entries_.find(request.id);
  if (old != entries_.end()) Erase(old);
  Entry entry;
  entry.attempt = request.attempt;
  entry.owner = owner;
  entry.cost = std::clamp<int64_t>(cost, 0, kCostMax);
  entry.resume_context = std::move(resume_context);
  entry.with_logprobs = request.with_logprobs;
  for (const auto& [index, first_index] : request.choices) {
    Choice choice;
    choice.index = index;
    choice.first_index = first_index;
    entry.choices.push_back(std::move(choice));
  }
  in_flight_[owner] += entry.cost;
  ++unfinished_;
  entries_.emplace(std::move(request.id), std::move(entry));
}

std::optional<RequestTable::Route> RequestTable::Record(const SequenceOutput& output) {
  const auto it = entries_.find(output.request_id);
  if (it == entries_.end() || it->second.attempt != output.attempt) return std::nullopt;
  Entry& entry = it->second;
  const auto choice = std::find_if(entry.choices.begin(), entry.choices.end(),
                                   [&](const Choice& c) { return c.index == output.choice; });
  if (choice == entry.choices.end() || choice->finish != FinishReason::kNone) return std::nullopt;

  const bool held = entry.owner == kNoLink;
  choice->tokens.insert(choice->tokens.end(), output.tokens.begin(), output.tokens.end());
  choice->finish = output.finish;
  choice->error = output.error;
  choice->bad_request = output.bad_request;
  if (held) held_bytes_ += output.tokens.size() * sizeof(TokenId);
  Route route{entry.owner, std::all_of(entry.choices.begin(), entry.choices.end(),
                                       [](auto& c) { return c.finish != FinishReason::kNone; })};
  if (route.last) {
    Finish(entry);
    if (!held) Erase(it);
  }
  return route;
}

void RequestTable::Disown(LinkId owner, const std::string& who, int64_t now_ns) {
  for (auto& [id, entry] : entries_) {
    if (entry.owner != owner) continue;
    in_flight_[kNoLink] += entry.cost;
    entry.owner = kNoLink;
    entry.forsaken_by = who;
    entry.expires_at_ns = now_ns + limits_.hold_ns;
    entry.held = held_.insert(held_.end(), id);
    held_bytes_ += entry.bytes();
  }
  in_flight_.erase(owner);
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

RequestTable::Handover RequestTable::Claim(const v1::Claim& claim, LinkId owner) {
  Handover handover;
  handover.answer.set_request_id(claim.request_id());
  const auto it = entries_.find(claim.request_id());
  if (it == entries_.end()) return handover;
  Entry& entry = it->second;
  if (entry.with_logprobs || entry.owner == owner ||
      claim.next_index_size() != static_cast<int>(entry.choices.size())) {
    return handover;
  }
  for (size_t i = 0; i < entry.choices.size(); ++i) {
    const Choice& choice = entry.choices[i];
    const int64_t end = int64_t{choice.first_index} + static_cast<int64_t>(choice.tokens.size());
    const int64_t wanted = claim.next_index(static_cast<int>(i));
    if (wanted < choice.first_index || wanted > end) return handover;
  }

  handover.answer.set_found(true);
  handover.answer.set_resume_context(entry.resume_context);
  handover.answer.set_attempt(entry.attempt);
  for (size_t i = 0; i < entry.choices.size(); ++i) {
    const Choice& choice = entry.choices[i];
    const int32_t wanted = claim.next_index(static_cast<int>(i));
    v1::StepOutput* output = handover.answer.add_outputs();
    output->set_request_id(claim.request_id());
    output->set_attempt(entry.attempt);
    output->set_choice(choice.index);
    output->set_first_index(wanted);
    const auto from = choice.tokens.begin() + (wanted - choice.first_index);
    output->mutable_tokens()->Add(from, choice.tokens.end());
    output->set_finish(static_cast<int32_t>(choice.finish));
    output->set_error(choice.error);
    output->set_bad_request(choice.bad_request);
    if (entry.owner != kNoLink && choice.finish == FinishReason::kNone) {
      v1::StepOutput& farewell = handover.farewell.emplace_back();
      farewell.set_request_id(claim.request_id());
      farewell.set_attempt(entry.attempt);
      farewell.set_choice(choice.index);
      farewell.set_first_index(choice.first_index + static_cast<int32_t>(choice.tokens.size()));
      farewell.set_finish(static_cast<int32_t>(FinishReason::kCancelled));
      farewell.set_error("another master has taken the request over");
    }
  }
  handover.previous = entry.owner;
  if (entry.owner == kNoLink) {
    held_bytes_ -= entry.bytes();
    held_.erase(entry.held);
  }
  if (!entry.finished) {
    in_flight_[entry.owner] -= entry.cost;
    in_flight_[owner] += entry.cost;
  }
  entry.owner = owner;
  if (entry.finished) entries_.erase(it);
  return handover;
}

int64_t RequestTable::in_flight(LinkId owner) const {
  const auto it = in_flight_.find(owner);
  return it == in_flight_.end() ? 0 : it->second;
}

void RequestTable::Finish(Entry& entry) {
  if (std::exchange(entry.finished, true)) return;
  in_flight_[entry.owner] -= entry.cost;
  --unfinished_;
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
  Ref ref{it->first, it->second.attempt};
  Erase(it);
  return ref;
}

}  // namespace fathom::worker
