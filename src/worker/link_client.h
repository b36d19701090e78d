#pragma once

// The worker's end of the link: dials every master it knows or is told of, carries submissions into
// the engines and each step's tokens out, tells how the worker and its models fare, shares each
// model's capacity out as credit, and holds the requests of lost masters for a while.
//
// One thread, the link thread, owns all state; gRPC, the engines and whoever loads models only post
// to its bounded mailbox. Thread safety: every method may be called from any thread; Start and Stop
// once each, by the owner.
//
// Invariants:
//   1. An engine is never blocked by a master: a link whose outbox is full counts as lost.
//   2. An output goes to the owner of its request alone, in order, and all outputs of one step for
//      one master travel in one message.
//   3. Orders to load, unload or leave that carry an older leader's epoch than one seen before are
//      refused.
//   4. No request outlives its master by more than the hold time, unless another one claims it.
//   5. What has crashed a worker before runs alone until it has shown that it was not the cause:
//      nothing is taken on meanwhile, from any master.
//   6. Every master hears each phase of each model in order, from the one that its Hello or what
//      follows Welcome told it of.

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
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
#include "worker/standstill.h"
#include "worker/worker_port.h"

namespace fathom::worker {

struct LinkClientOptions {
  std::vector<std::string> masters;  // host:port
  v1::Hello hello;                   // who this worker is; the link sets protocol and models
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
  absl::Status Start(WorkerPort worker);

  // How one of the models fares: at every change, in order; before Start, what there is at first.
  // Any thread, though one at a time.
  void OnModel(ModelNews news);

  // Tells all masters that the worker leaves; new work is rejected, running work goes on.
  void Leave(const std::string& reason);

  // Hands over what has been sent, for a bounded time, then ends all links.
  void Stop();

  // The process is about to die of a fault: masters are told at once, as far as that still goes.
  // Any thread; does not wait.
  void SayCrashed();

  int linked() const { return linked_; }                   // masters whose Welcome has come
  int unfinished() const { return unfinished_; }           // requests the engines have
  bool idle() const { return left_ && unfinished_ == 0; }  // Leave is done and nothing runs

  // On an engine's thread. Waits while the link is hundreds of steps behind: an engine faster than
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
    bool rests = false;  // its last heartbeat said that the next one is a while away
    uint64_t beats = 0;
    int64_t backlog = 0;
    std::map<std::string, int64_t> backlogs;  // what of it waits for which model, where it says so
    std::map<std::string, uint64_t> greeted;  // models of its Hello, each with its Model::serial
    std::optional<SilenceJudge> judge;
    std::shared_ptr<std::atomic<int64_t>> heard_ns;  // when its last message came in
    CacheTeller::Listener cache;
  };

  // A model that masters know of.
  struct Model {
    v1::ModelState state;
    // Set while it serves: READY and UNLOADING.
    std::optional<EnginePort> engine;
    v1::LoadedModel loaded;
    uint64_t serial = 0;  // counts models that began to serve
    int64_t capacity = 0;
    RateMeter tokens;
  };
  using Models = std::map<std::string, Model>;

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
  bool IsOrderOfLeader(const Peer& peer, uint64_t epoch);
  void OnDrain(const Peer& peer, const v1::Drain& drain);
  void OnLoad(const Peer& peer, const v1::Load& load);
  void OnUnload(const Peer& peer, const v1::Unload& unload);
  void OnNews(ModelNews news);
  v1::Hello Greeting(Peer& peer) const;
  void TellModels(Peer& peer);
  void TellModel(Peer& peer, const v1::ModelState& state);
  void OnBacklog(Peer& peer, const v1::MasterHeartbeat& heartbeat);
  int64_t BacklogOf(const Peer& peer, const std::string& model) const;
  bool IsInUse(const std::string& model) const;
  const EnginePort* EngineOf(const std::string& model) const;
  void OnSubmit(Peer& peer, const v1::Submit& submit);
  void OnBulk(Peer& peer, const v1::MasterBulk& message);
  void OnClaim(Peer& peer, const v1::Claim& claim);
  void OnCondemned(Peer& peer, const v1::Condemned& condemned);
  void TellCondemned(Peer& peer);
  v1::WorkerControl LastWords() const;
  void OnOutputs(const std::vector<SequenceOutput>& outputs);
  void SendHeartbeats(int64_t now_ns);  // those that are due
  void SendHeartbeatsNow();
  void EndRest();
  // What the heartbeats say of one model that serves.
  struct Figures {
    v1::ModelFigures model;
    EngineStats engine;
    std::vector<int64_t> credits;  // of each linked master
  };
  Figures FiguresOf(const std::string& name, Model& model, const std::vector<Peer*>& linked,
                    int64_t now_ns);
  v1::Heartbeat Sum(const std::vector<Figures>& models, int64_t now_ns) const;
  void SendCacheChanges();
  // Its requests are another master's now.
  void SayFarewell(LinkId id, std::vector<v1::StepOutput> outputs);
  void SendData(LinkId id, v1::WorkerData message);
  void TellCacheChanges(const CacheChanges& changes);
  void OnCancel(const Peer& peer, const v1::Cancel& cancel);
  void CancelAll(const std::vector<RequestTable::Ref>& requests);
  absl::Status Admit(const v1::Submit& submit) const;

  const LinkClientOptions options_;
  WorkerPort worker_;
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
  Models models_;
  uint64_t served_ = 0;  // models that ever did
  CacheTeller cache_;
  ExpiringNames condemned_{1024};
  LinkId last_id_ = kNoLink;
  int64_t last_tick_ns_ = 0;
  StandstillWatch standstill_;
  int64_t stop_by_ns_ = 0;  // 0: not stopping
  bool leaving_ = false;
  bool dead_ = false;   // an engine is
  uint64_t epoch_ = 0;  // the highest that a master has named
};

}  // namespace fathom::worker
