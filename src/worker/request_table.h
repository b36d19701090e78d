#pragma once

// Whose request is whose: every request the engines have, the model it is for, the master it
// belongs to, and the tokens it has put out so far. Requests whose master is gone are held for a
// grace time, in which another master may claim them; what is held is bounded in bytes.
//
// Thread safety: none; the link thread owns it. Time comes in as an argument.
//
// Invariants:
//   1. in_flight(owner, model) is the sum of the costs of unfinished entries of those.
//   2. held_bytes() never stays above the limit: the entry held longest goes first.
//   3. At most one entry runs alone, and it has not finished. Taken out while it does, it keeps its
//      place until its engine has ended it, which may be in a step with it; so does each attempt of
//      it that another engine had.

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fathom/v1/link.pb.h"
#include "worker/engine/request.h"

namespace fathom::worker {

// A connection to a master; connections are numbered from 1.
using LinkId = uint64_t;
inline constexpr LinkId kNoLink = 0;

class RequestTable {
 public:
  struct Limits {
    int64_t hold_ns = 10'000'000'000;
    size_t held_bytes = size_t{64} << 20;
  };
  struct Ref {
    std::string id;
    uint32_t attempt = 0;
    std::string model;
  };
  // Where an output goes.
  struct Route {
    LinkId owner = kNoLink;
    bool last = false;  // the request's last one
  };

  explicit RequestTable(const Limits& limits) : limits_(limits) {}

  // What the table remembers of a request that the engine consumes.
  struct Brief {
    std::string id;
    uint32_t attempt = 0;
    std::string model;
    std::vector<ChoiceStart> choices;
    bool with_logprobs = false;
    std::string fingerprint;
    int32_t crashes = 0;  // workers that may have crashed because of it; more than 0: it runs alone
  };
  static Brief BriefOf(const EngineRequest& request, std::string model);

  // False while another request runs alone. It does until it has put out a few tokens: then it is
  // not what crashed its worker; or until its engine has let go of it. Whoever takes requests on
  // asks before.
  bool MayTakeOn(const std::string& id) const;

  // Takes on a request that the model's engine accepted; an older attempt of it is superseded.
  struct Superseded {
    std::optional<Ref> elsewhere;          // it runs on another engine, which does not know
    LinkId previous = kNoLink;             // the owner it is taken from, another one
    std::vector<v1::StepOutput> farewell;  // to that one: its choices end as cancelled
  };
  Superseded Add(Brief request, LinkId owner, int64_t cost, std::string resume_context);

  // Notes an output; nothing when no entry of that attempt has that choice open. Finished requests
  // of living masters are forgotten, those of lost ones stay claimable until their time is over.
  std::optional<Route> Record(const SequenceOutput& output);

  // The master is gone: its requests go on, unowned. `who` names the master's process.
  void Disown(LinkId owner, const std::string& who, int64_t now_ns);

  // Entries to give up by now, taken out: their time is over, or they are too large to hold.
  std::vector<Ref> Expire(int64_t now_ns);

  // The master's process `who` is back: it gave its requests up when the link broke. Taken out.
  std::vector<Ref> ForsakenBy(const std::string& who);

  // Hands a request over to `owner`, unless it is not here, is the claimer's own or came with
  // another context. One whose logprobs, which are not kept, would be missing, and one of another
  // model than the claimer's, is given up instead: its client is with a master that has to begin
  // anew.
  struct Handover {
    v1::Claimed answer;
    LinkId previous = kNoLink;             // the living owner it is taken from
    std::vector<v1::StepOutput> farewell;  // to the previous owner: its choices end as cancelled
    std::optional<Ref> given_up;
  };
  Handover Claim(const v1::Claim& claim, LinkId owner);

  // A request that is known to be another's.
  bool IsOfAnother(const std::string& id, LinkId owner) const;

  // The names of what has not finished, those that run alone first, `max` at most.
  v1::LastWords LastWords(int max) const;

  // Which a request is for; null: it is not here.
  const std::string* ModelOf(const std::string& id) const;

  int64_t in_flight(LinkId owner) const;  // of all models
  int64_t in_flight(LinkId owner, const std::string& model) const;
  int64_t unowned_cost() const { return in_flight(kNoLink); }
  int unfinished() const;
  int unfinished(const std::string& model) const;
  size_t held_bytes() const { return held_bytes_; }

 private:
  struct Choice {
    int32_t index = 0;
    std::vector<TokenId> tokens;  // from the first on
    int32_t cached_tokens = 0;
    FinishReason finish = FinishReason::kNone;
    std::string error;
    bool bad_request = false;
  };
  struct Entry {
    uint32_t attempt = 0;
    std::string model;
    LinkId owner = kNoLink;
    int64_t cost = 0;
    std::string resume_context;
    std::vector<Choice> choices;
    bool with_logprobs = false;
    std::string fingerprint;
    int32_t crashes = 0;
    int64_t tokens_here = 0;  // put out by this worker
    bool finished = false;
    // Set while unowned.
    std::string forsaken_by;
    int64_t expires_at_ns = 0;
    std::list<std::string>::iterator held;
    size_t bytes() const;
  };
  using Map = std::unordered_map<std::string, Entry>;
  // Sums over the unfinished entries of a model.
  struct Load {
    std::map<LinkId, int64_t> in_flight;
    int unfinished = 0;
  };

  // One that ran alone and was taken out; its engine has not said yet that it has ended.
  struct Leaving {
    std::string id;
    uint32_t attempt = 0;
    std::string model;
    std::vector<int32_t> open;  // choices
    v1::LastWords::Run run;
  };

  static v1::LastWords::Run RunOf(const Entry& entry);
  void RecordLeaving(const SequenceOutput& output);
  static std::vector<v1::StepOutput> Farewell(const std::string& id, const Entry& entry);
  void Finish(Entry& entry);
  void Erase(Map::iterator it);
  Ref Take(Map::iterator it);

  const Limits limits_;
  Map entries_;
  std::list<std::string> held_;        // unowned entries, longest held first
  std::map<std::string, Load> loads_;  // of models with unfinished entries
  size_t held_bytes_ = 0;
  const Entry* alone_ = nullptr;
  std::vector<Leaving> leaving_;  // attempts of one request, one of a model at most
};

}  // namespace fathom::worker
