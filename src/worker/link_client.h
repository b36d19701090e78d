#pragma once

// The worker's end of the link: dials every master it knows or is told of, carries submissions into
// the engine and each step's tokens out, tells how the worker fares, shares its capacity out as
// credit, and holds the requests of lost masters for a while.
//
// One thread, the link thread, owns all state; gRPC and the engine only post to its bounded
// mailbox. Thread safety: every method may be called from any thread; Start and Stop once each, by
// the owner.
//
// Invariants:
//   1. The engine is never blocked: a link whose outbox is full counts as lost.
//   2. An output goes to the owner of its request alone, in order, and all outputs of one step for
//      one master travel in one message.
//   3. Orders to load, unload or leave that carry an older leader's epoch than one seen before are
//      refused.
//   4. No request outlives its master by more than the hold time, unless another one claims it.

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/expiring_names.h"
#include "common/random.h"
#include "common/silence_judge.h"
#include "common/tls/link_credentials.h"
#include "fathom/v1/link.pb.h"
#include "worker/backoff.h"
#include "worker/cache_teller.h"
#include "worker/engine/request.h"
#include "worker/master_book.h"
#include "worker/master_link.h"
#include "worker/rate_meter.h"
#include "worker/request_table.h"

namespace fathom::worker {

// What the link needs of an engine. The functions are called on the link thread and must not block.
struct EnginePort {
  std::function<absl::Status(EngineRequest)> submit;
  std::function<void(const std::string& id, uint32_t attempt, std::vector<int32_t> choices)> cancel;
  std::function<void()> leave;  // a master with the right to say so wants the worker to go
  std::function<EngineStats()> stats;
  std::function<CacheChanges()> cache_changes;
};

struct LinkClientOptions {
  std::vector<std::string> masters;  // host:port
  v1::Hello hello;                   // who this worker is; the link sets the protocol version
  int64_t capacity = 0;              // token cost that masters may have in flight here, in sum
  TlsFiles tls;                      // ours; masters show a certificate of the same CA
  bool insecure = false;             // without TLS: whoever answers may be a master
  absl::Duration heartbeat = absl::Milliseconds(250);  // until a master says otherwise
  absl::Duration redial_first = absl::Milliseconds(100);
  absl::Duration redial_max = absl::Seconds(5);
  absl::Duration silence_floor = absl::Seconds(3);
  size_t outbox_bytes = size_t{64} << 20;  // per master
  RequestTable::Limits hold;
  const Clock* clock = Clock::Real();
  Random* random = Random::Real();  // used on the link thread
};

class LinkClient final : public OutputSink {
 public:
  explicit LinkClient(LinkClientOptions options);
  ~LinkClient() override;  // stops
  LinkClient(const LinkClient&) = delete;
  LinkClient& operator=(const LinkClient&) = delete;

  // Starts dialling. INVALID_ARGUMENT for files that TLS cannot use, without both them and
  // `insecure`, and when an address is not host:port.
  absl::Status Start(EnginePort engine);

  // Tells all masters that the worker leaves; new work is rejected, running work goes on.
  void Leave(const std::string& reason);

  // Hands over what has been sent, for a bounded time, then ends all links.
  void Stop();

  // The process is about to die of a fault: masters are told at once, as far as that still goes.
  // Any thread; does not wait.
  void SayCrashed();

  int linked() const { return linked_; }                   // masters whose Welcome has come
  int unfinished() const { return unfinished_; }           // requests the engine has
  bool idle() const { return left_ && unfinished_ == 0; }  // Leave is done and nothing runs

  // On the engine's thread. Waits while the link is hundreds of steps behind: an engine faster than
  // the link is slowed down, no output is lost.
  void OnStep(std::vector<SequenceOutput> outputs) override;
  void OnDead(const absl::Status& reason) override;

 private:
  // A master, linked or not.
  struct Peer {
    std::string address;
    Backoff backoff;
    int64_t dial_at_ns = 0;
    bool told = false;  // the log has why it is not reached
    // Set while a connection is being made or stands.
    LinkId id = kNoLink;
    std::shared_ptr<MasterLink> link;
    int64_t dialled_at_ns = 0;
    // Set once its Welcome has come.
    bool welcomed = false;
    std::string who;  // names the master's process
    int64_t beat_every_ns = 0;
    int64_t beat_at_ns = 0;
    uint64_t beats = 0;
    int64_t backlog = 0;
    std::optional<SilenceJudge> judge;
    std::shared_ptr<std::atomic<int64_t>> heard_ns;  // when its last message came in
    CacheTeller::Listener cache;
  };

  // From any thread: runs `act` on the link thread.
  void Post(std::function<void()> act);
  // Likewise, if the connection `id` still stands by then.
  void PostTo(LinkId id, std::function<void(Peer&)> act);

  // All below run on the link thread.
  void Run();
  void Tick(int64_t now_ns);
  bool Done(int64_t now_ns) const;
  absl::Status AddPeer(const std::string& address);
  void Learn(Peer& peer, const std::string& address,
             const google::protobuf::RepeatedPtrField<std::string>& masters);
  bool IsWanted(const Peer& peer) const;
  void ForgetMasters();
  void Dial(Peer& peer, int64_t now_ns);
  void Lose(Peer& peer, const absl::Status& reason);
  Peer* Find(LinkId id);
  void OnControl(Peer& peer, const v1::MasterControl& message);
  void OnWelcome(Peer& peer, const v1::Welcome& welcome);
  void OnDrain(const Peer& peer, const v1::Drain& drain);
  void OnSubmit(Peer& peer, const v1::Submit& submit);
  void OnBulk(Peer& peer, const v1::MasterBulk& message);
  void OnClaim(Peer& peer, const v1::Claim& claim);
  void OnCondemned(Peer& peer, const v1::Condemned& condemned);
  void TellCondemned(Peer& peer);
  void OnOutputs(const std::vector<SequenceOutput>& outputs);
  void SendHeartbeats(int64_t now_ns);  // those that are due
  void SendHeartbeatsNow();
  void SendCacheChanges();
  void SendData(LinkId id, v1::WorkerData message);
  void CancelAll(const std::vector<RequestTable::Ref>& requests);
  absl::Status Admit(const v1::Submit& submit) const;

  const LinkClientOptions options_;
  EnginePort engine_;
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
  BoundedQueue<std::function<void()>> mailbox_;
  std::atomic<int> steps_posted_{0};
  std::atomic<bool> overflowed_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> crashed_{false};
  std::atomic<int> linked_{0};
  std::atomic<int> unfinished_{0};
  std::atomic<bool> left_{false};
  std::thread thread_;

  // State below belongs to the link thread.
  std::list<Peer> peers_;
  MasterBook book_;
  std::vector<std::shared_ptr<MasterLink>> retired_;  // until gRPC has let go of them
  RequestTable requests_;
  RateMeter tokens_;
  CacheTeller cache_;
  ExpiringNames condemned_{1024};
  LinkId last_id_ = kNoLink;
  int64_t last_tick_ns_ = 0;
  int64_t stop_by_ns_ = 0;  // 0: not stopping
  bool leaving_ = false;
  uint64_t epoch_ = 0;  // the highest that a master has named
};

}  // namespace fathom::worker
