#pragma once

// One life of one worker as its master sees it: what it said last, what was given to it, and
// whether it still lives. The streams feed it; LinkServer owns it.
//
// Thread safety: every method may be called from any thread. Listener calls of a session come one
// at a time, and none while the session's state is locked, so that a listener may call back into
// Submit and Cancel.
//
// Invariants:
//   1. Dead is for ever; on the way there every open submission's listener hears OnWorkerLost once.
//   2. in_flight_cost is the sum of the costs of open submissions.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/silence_judge.h"
#include "fathom/v1/link.pb.h"
#include "master/fleet/cache_follower.h"
#include "master/fleet/fleet.h"
#include "master/fleet/server_stream.h"

namespace fathom::master {

using ControlSink = MessageSink<v1::MasterControl>;
using DataSink = MessageSink<v1::MasterData>;
using BulkSink = MessageSink<v1::MasterBulk>;

// Token cost that waits, by model; models without any are left out.
using Backlog = std::map<std::string, int64_t>;

class WorkerSession {
 public:
  // The worker came, went, told how it fares or gave up what it had.
  using ChangeCallback = std::function<void(FleetNews)>;

  // `hello` has passed CheckHello. Sends nothing yet.
  WorkerSession(const v1::Hello& hello, std::string session_id, absl::Duration heartbeat,
                absl::Duration silence_floor, int64_t now_ns, std::shared_ptr<ControlSink> control,
                ChangeCallback on_change);
  WorkerSession(const WorkerSession&) = delete;
  WorkerSession& operator=(const WorkerSession&) = delete;

  const WorkerKey& key() const { return key_; }
  const std::string& session_id() const { return session_id_; }
  WorkerInfo Info() const;

  // The data stream has come: from now on the session takes submissions. False when it is dead or
  // has one already.
  bool BindData(std::shared_ptr<DataSink> data);

  // The bulk stream has come: asks for the worker's prefix cache, if its names can be known. False
  // when the session is dead or has one already.
  bool BindBulk(std::shared_ptr<BulkSink> bulk);

  absl::Status Submit(Submission submission, std::shared_ptr<SubmissionListener> listener,
                      int64_t now_ns);
  void Cancel(const std::string& request_id, uint32_t attempt, std::vector<int32_t> choices);
  // Asks for a request that another master has, or had. `answered` is called once, with what the
  // worker handed over, if anything; it may be called before Claim returns.
  struct ClaimAnswer {
    std::optional<ClaimedWork> work;
    uint32_t attempt = 0;
    bool other_context = false;
  };
  using OnClaimed = std::function<void(ClaimAnswer)>;
  void Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
             OnClaimed answered);
  // It runs nothing of this master's.
  bool Idle() const;
  bool SendControl(v1::MasterControl message);
  // Says what of it waits for this worker's models.
  void SetShare(const Backlog& backlog, v1::MasterHeartbeat* heartbeat) const;

  void OnHeartbeat(const v1::Heartbeat& heartbeat, int64_t now_ns);
  void OnLeaving(const std::string& reason);
  // What the worker ran when it crashed; it has been checked. What was only under way to it has met
  // no crash: it is lost as from a worker that leaves.
  void OnLastWords(const v1::LastWords& words);
  absl::Status OnModelState(const v1::ModelState& state);
  // A broken message ends the link: the worker cannot be trusted with any of its streams.
  absl::Status OnData(const v1::WorkerData& message, int64_t now_ns);
  // News of the prefix cache; nothing for messages that have none.
  absl::StatusOr<std::optional<CacheUpdate>> OnBulk(const v1::WorkerBulk& message);

  // Why the worker must be taken for dead by now: silence, a hang, its own word; nothing when it
  // lives. `slept_ns` is how long the judge itself did not look.
  std::optional<WorkerLoss> Judge(int64_t now_ns, int64_t slept_ns);

  // Ends the session and its streams. False when it was dead already.
  bool Die(const WorkerLoss& loss);

 private:
  struct Choice {
    int32_t index = 0;
    int32_t next_token = 0;
    bool open = true;
  };
  struct Active {
    uint32_t attempt = 0;
    int64_t cost = 0;
    std::string fingerprint;  // empty: claimed
    std::shared_ptr<SubmissionListener> listener;
    std::vector<Choice> choices;
    std::vector<TokenId> prompt;  // kept only to name the tokens of prompt logprobs
    bool all_closed() const;
  };
  using ActiveMap = std::unordered_map<std::string, Active>;
  struct PendingClaim {
    int64_t cost = 0;
    std::shared_ptr<SubmissionListener> listener;
    OnClaimed answered;
  };
  using PendingClaims = std::unordered_multimap<std::string, PendingClaim>;
  struct Delivery {
    std::shared_ptr<SubmissionListener> listener;  // empty: nothing to deliver
    std::optional<SubmissionOutput> output;
    absl::Status lost;  // not OK: OnWorkerLost instead
    bool closed = false;
  };

  // Sends it and knows it from then on, in place of an earlier attempt, which is put into
  // `superseded` when it is another listener's.
  absl::Status Enter(const std::string& request_id, Active active, v1::MasterData message,
                     int64_t now_ns, std::optional<Active>* superseded);
  // These lock mutex_ and deliver without it.
  void DeliverAccepted(const v1::Accepted& accepted);
  void DeliverRejected(const v1::Rejected& rejected);
  absl::Status DeliverOutput(const v1::StepOutput& message);
  absl::Status DeliverClaimed(const v1::Claimed& claimed);
  void CancelChoice(const std::string& request_id, uint32_t attempt, std::optional<int32_t> choice);
  // mutex_ is held.
  Delivery TakeOutput(const std::string& request_id, SubmissionOutput output);
  // Its listener hears that somebody else has it.
  static void TellTakenOver(const Active& active);
  void Erase(ActiveMap::iterator it);
  void AskForCache();
  bool NamesBlocks() const;

  const WorkerKey key_;
  const std::string session_id_;
  const ChangeCallback on_change_;
  const std::shared_ptr<ControlSink> control_;

  std::mutex delivery_mutex_;  // held while listeners are called; taken before mutex_

  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  WorkerInfo info_;
  std::shared_ptr<DataSink> data_;
  std::shared_ptr<BulkSink> bulk_;
  CacheFollower cache_;
  ActiveMap active_;
  PendingClaims claims_;  // answers come in the order of the questions
  std::optional<std::unordered_set<std::string>> ran_;  // by its last words
  SilenceJudge judge_;
  int64_t hang_at_ns_ = 0;     // 0: no step is running
  int64_t late_since_ns_ = 0;  // by its own word its step is past its deadline since
  bool hangs_ = false;
  bool leaving_ = false;
  bool engine_dead_ = false;
  bool dead_ = false;
};

}  // namespace fathom::master
