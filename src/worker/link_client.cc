#include "worker/link_client.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/fault_stack.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/link_messages.h"

namespace fathom::worker {
namespace {

constexpr size_t kMailboxMax = 8192;
constexpr int kStepsPostedMax = 256;
constexpr int64_t kTickNs = 25'000'000;
constexpr int64_t kOversleptNs = 500'000'000;
constexpr int64_t kWelcomeNs = 5'000'000'000;
constexpr int64_t kFlushNs = 1'000'000'000;
constexpr int64_t kBeatMinNs = 20'000'000;
constexpr int64_t kBeatMaxNs = 10'000'000'000;
constexpr int64_t kRetryAfterMs = 250;
// About what a prompt and eight tokens take.
constexpr int64_t kAloneRetryMs = 50;

}  // namespace

LinkClient::LinkClient(LinkClientOptions options)
    : options_([&options] {
        options.hello.set_protocol(kLinkProtocol);
        return std::move(options);
      }()),
      mailbox_(kMailboxMax),
      book_(options_.masters),
      requests_(options_.hold) {}

LinkClient::~LinkClient() { Stop(); }

absl::Status LinkClient::Start(WorkerPort worker) {
  worker_ = std::move(worker);
  ASSIGN_OR_RETURN(credentials_,
                   MakeLinkCredentials(options_.tls, options_.insecure, options_.clock->Now()));
  for (const std::string& master : options_.masters) RETURN_IF_ERROR(AddPeer(master));
  // The first Hello tells of the models that are there.
  while (auto act = mailbox_.TryPop()) (*act)();
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void LinkClient::Leave(const std::string& reason) {
  Post([this, reason] {
    leaving_ = true;
    for (Peer& peer : peers_) {
      if (!peer.welcomed) continue;
      v1::WorkerControl message;
      message.mutable_leaving()->set_reason(reason);
      peer.link->Send(std::move(message));
    }
    left_ = true;
  });
}

void LinkClient::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  thread_.join();
}

void LinkClient::OnStep(std::vector<SequenceOutput> outputs) {
  int posted = steps_posted_;
  while (posted >= kStepsPostedMax || !steps_posted_.compare_exchange_weak(posted, posted + 1)) {
    if (mailbox_.closed()) return;
    if (posted >= kStepsPostedMax) steps_posted_.wait(posted);
    posted = steps_posted_;
  }
  Post([this, outputs = std::move(outputs)] {
    OnOutputs(outputs);
    --steps_posted_;
    steps_posted_.notify_all();  // several engines may wait, each for another count
  });
}

void LinkClient::OnDead(const absl::Status& reason) {
  LogError("link", "the engine is dead", {{"error.message", std::string(reason.message())}});
  Post([this] {
    dead_ = true;
    SendHeartbeatsNow();
  });
}

void LinkClient::SayCrashed() {
  crashed_ = true;
  Post([this] { SendHeartbeatsNow(); });
}

void LinkClient::Post(std::function<void()> act) {
  if (!mailbox_.TryPush(std::move(act))) overflowed_ = true;
}

void LinkClient::PostTo(LinkId id, std::function<void(Peer&)> act) {
  Post([this, id, act = std::move(act)] {
    if (Peer* peer = Find(id)) act(*peer);
  });
}

void LinkClient::Run() {
  const FaultStack fault_stack;
  last_tick_ns_ = options_.clock->MonotonicNs();
  int64_t tick_at_ns = last_tick_ns_;
  while (true) {
    const int64_t now_ns = options_.clock->MonotonicNs();
    if (now_ns >= tick_at_ns) {
      Tick(now_ns);
      tick_at_ns = now_ns + kTickNs;
      if (Done(now_ns)) break;
    }
    const int64_t wait_ns = std::clamp<int64_t>(tick_at_ns - now_ns, 0, kTickNs);
    if (auto act = mailbox_.Pop(absl::Nanoseconds(wait_ns))) (*act)();
  }
  mailbox_.Close();
  for (Peer& peer : peers_) {
    if (peer.link != nullptr) Lose(peer, absl::CancelledError("the worker stops"));
  }
  // gRPC's callbacks post to this object: it must not go before the last of them.
  while (std::erase_if(retired_, MasterLink::IsLast), !retired_.empty()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  static_cast<void>(mailbox_.Drain());
  steps_posted_ = 0;
  steps_posted_.notify_all();
}

bool LinkClient::Done(int64_t now_ns) const {
  if (stop_by_ns_ == 0) return false;
  return now_ns >= stop_by_ns_ || std::none_of(peers_.begin(), peers_.end(), [](const Peer& peer) {
           return peer.link != nullptr;
         });
}

void LinkClient::Tick(int64_t now_ns) {
  const int64_t slept_ns = now_ns - last_tick_ns_ > kOversleptNs ? now_ns - last_tick_ns_ : 0;
  last_tick_ns_ = now_ns;
  if (const auto still = standstill_.Look(now_ns, StandstillWatch::Waits::Now())) {
    LogWarn("link", "the worker stood still",
            {{"labels.milliseconds", still->ms},
             {"labels.run_delay_milliseconds", still->run_delay_ms},
             {"labels.major_faults", still->major_faults}});
  }
  if (stopping_ && stop_by_ns_ == 0) {
    stop_by_ns_ = now_ns + kFlushNs;
    for (Peer& peer : peers_) {
      if (peer.link != nullptr) peer.link->Finish();
    }
  }
  const bool overflowed = overflowed_.exchange(false);
  for (Peer& peer : peers_) {
    if (peer.link == nullptr) {
      if (stop_by_ns_ == 0 && peer.dial_at_ns <= now_ns && IsWanted(peer)) Dial(peer, now_ns);
      continue;
    }
    if (peer.judge) {
      peer.judge->Heard(*peer.heard_ns);
      if (slept_ns > 0) peer.judge->Excuse(slept_ns);
    }
    if (overflowed) {
      Lose(peer, absl::ResourceExhaustedError("the link's mailbox overflowed"));
    } else if (!peer.welcomed && now_ns - peer.dialled_at_ns > kWelcomeNs) {
      Lose(peer, absl::DeadlineExceededError("the master did not answer Hello"));
    } else if (peer.judge && peer.judge->Silent(now_ns)) {
      Lose(peer, absl::UnavailableError("the master is silent"));
    }
  }
  if (worker_.look) worker_.look(now_ns, [this](const auto& model) { return IsInUse(model); });
  SendHeartbeats(now_ns);
  SendCacheChanges();
  CancelAll(requests_.Expire(now_ns));
  unfinished_ = requests_.unfinished();
  ForgetMasters();
  std::erase_if(retired_, MasterLink::IsLast);
}

void LinkClient::Dial(Peer& peer, int64_t now_ns) {
  const LinkId id = ++last_id_;
  peer.id = id;
  peer.dialled_at_ns = now_ns;
  // Noted where a message comes in: one that waits for this thread is no silence of the master's.
  const auto heard_ns = std::make_shared<std::atomic<int64_t>>(0);
  peer.heard_ns = heard_ns;
  const Clock* const clock = options_.clock;
  peer.link =
      MasterLink::Dial(peer.address, credentials_, Greeting(peer), options_.outbox_bytes,
                       {.on_control =
                            [this, id, heard_ns, clock](v1::MasterControl message) {
                              *heard_ns = clock->MonotonicNs();
                              PostTo(id, [this, message = std::move(message)](Peer& peer) {
                                OnControl(peer, message);
                                if (peer.link != nullptr) peer.link->ReadControl();
                              });
                            },
                        .on_data =
                            [this, id, heard_ns, clock](v1::MasterData message) {
                              *heard_ns = clock->MonotonicNs();
                              PostTo(id, [this, message = std::move(message)](Peer& peer) {
                                if (message.has_submit()) OnSubmit(peer, message.submit());
                                if (peer.link != nullptr) peer.link->ReadData();
                              });
                            },
                        .on_bulk =
                            [this, id, heard_ns, clock](v1::MasterBulk message) {
                              *heard_ns = clock->MonotonicNs();
                              PostTo(id, [this, message = std::move(message)](Peer& peer) {
                                OnBulk(peer, message);
                                if (peer.link != nullptr) peer.link->ReadBulk();
                              });
                            },
                        .on_closed =
                            [this, id](const absl::Status& reason) {
                              PostTo(id, [this, reason](Peer& peer) { Lose(peer, reason); });
                            }});
}

void LinkClient::Lose(Peer& peer, const absl::Status& reason) {
  const int64_t now_ns = options_.clock->MonotonicNs();
  const bool refused = reason.code() == absl::StatusCode::kFailedPrecondition ||
                       reason.code() == absl::StatusCode::kInvalidArgument;
  const LogLevel level = refused || (peer.welcomed && !leaving_) ? LogLevel::kWarn
                         : peer.welcomed                         ? LogLevel::kInfo
                         : peer.told || stop_by_ns_ != 0         ? LogLevel::kDebug
                                                                 : LogLevel::kWarn;
  peer.told = true;
  if (!peer.welcomed && absl::IsAlreadyExists(reason)) book_.IsAlias(peer.address);
  Log(level, "link",
      refused         ? "master refused this worker"
      : peer.welcomed ? "link to master ended"
                      : "master not reached",
      {{"server.address", peer.address}, {"error.message", std::string(reason.message())}});
  requests_.Disown(peer.id, peer.who, now_ns);
  peer.dial_at_ns =
      now_ns + absl::ToInt64Nanoseconds(refused ? peer.backoff.Longest() : peer.backoff.Next());
  const auto link = std::exchange(peer.link, nullptr);
  if (std::exchange(peer.welcomed, false)) --linked_;
  peer.id = kNoLink;
  peer.judge.reset();
  peer.backlog = 0;
  peer.cache = {};
  link->Cut(reason);
  retired_.push_back(link);
}

LinkClient::Peer* LinkClient::Find(LinkId id) {
  for (Peer& peer : peers_) {
    if (peer.id == id && peer.link != nullptr) return &peer;
  }
  return nullptr;
}

void LinkClient::OnControl(Peer& peer, const v1::MasterControl& message) {
  if (message.has_welcome()) {
    if (!peer.welcomed) OnWelcome(peer, message.welcome());
    return;
  }
  if (!peer.welcomed) return Lose(peer, absl::InvalidArgumentError("no Welcome came first"));
  if (message.has_heartbeat()) {
    peer.judge->Beat(*peer.heard_ns);
    OnBacklog(peer, message.heartbeat());
    Learn(peer, message.heartbeat().address(), message.heartbeat().masters());
  } else if (message.has_cancel()) {
    OnCancel(peer, message.cancel());
  } else if (message.has_drain()) {
    OnDrain(peer, message.drain());
  } else if (message.has_claim()) {
    OnClaim(peer, message.claim());
  } else if (message.has_load()) {
    OnLoad(peer, message.load());
  } else if (message.has_unload()) {
    OnUnload(peer, message.unload());
  } else if (message.has_condemned()) {
    OnCondemned(peer, message.condemned());
  }
  // Others are of a newer protocol and may be passed over.
}

void LinkClient::OnWelcome(Peer& peer, const v1::Welcome& welcome) {
  const int64_t now_ns = options_.clock->MonotonicNs();
  peer.welcomed = true;
  peer.told = false;
  ++linked_;
  peer.who =
      welcome.incarnation().empty() ? peer.address : absl::BytesToHexString(welcome.incarnation());
  peer.backoff.Reset();
  epoch_ = std::max<uint64_t>(epoch_, welcome.epoch());
  peer.beat_every_ns =
      welcome.heartbeat_ms() > 0
          ? std::clamp(welcome.heartbeat_ms() * int64_t{1'000'000}, kBeatMinNs, kBeatMaxNs)
          : absl::ToInt64Nanoseconds(options_.heartbeat);
  peer.beat_at_ns = now_ns;
  peer.judge.emplace(absl::Nanoseconds(peer.beat_every_ns), options_.silence_floor, now_ns);
  LogInfo(
      "link", "linked to master",
      {{"server.address", peer.address}, {"labels.master", welcome.master_id().substr(0, 256)}});
  CancelAll(requests_.ForsakenBy(peer.who));
  peer.link->Open(welcome.session_id());
  if (leaving_) {
    v1::WorkerControl message;
    message.mutable_leaving()->set_reason("leaving");
    peer.link->Send(std::move(message));
  }
  TellModels(peer);
  if (peer.link == nullptr) return;  // they were too much for its outbox
  TellCondemned(peer);
  Learn(peer, welcome.address(), welcome.masters());
  SendHeartbeats(now_ns);
}

absl::Status LinkClient::Admit(const v1::Submit& submit) const {
  if (leaving_) return absl::UnavailableError("the worker is leaving");
  if (EngineOf(submit.model()) == nullptr) {
    return absl::NotFoundError("this worker has no such model");
  }
  return requests_.MayTakeOn(submit.request_id())
             ? absl::OkStatus()
             : absl::AbortedError("a request that must run alone is here");
}

void LinkClient::OnSubmit(Peer& peer, const v1::Submit& submit) {
  absl::Status status = Admit(submit);
  RequestTable::Brief brief;
  if (status.ok()) {
    auto request = FromMessage(submit, options_.clock->MonotonicNs());
    status = request.status();
    if (request.ok()) {
      brief = RequestTable::BriefOf(*request, submit.model());
      brief.fingerprint = submit.fingerprint();
      brief.crashes = submit.crashes();
      status = EngineOf(submit.model())->submit(*std::move(request));
    }
  }
  v1::WorkerData answer;
  if (status.ok()) {
    // Its outputs come through the mailbox: after this.
    RequestTable::Superseded superseded =
        requests_.Add(std::move(brief), peer.id, submit.cost(), submit.resume_context());
    SayFarewell(superseded.previous, std::move(superseded.farewell));
    if (superseded.elsewhere) CancelAll({*superseded.elsewhere});
    v1::Accepted* accepted = answer.add_accepted();
    accepted->set_request_id(submit.request_id());
    accepted->set_attempt(submit.attempt());
  } else {
    v1::Rejected* rejected = answer.add_rejected();
    rejected->set_request_id(submit.request_id());
    rejected->set_attempt(submit.attempt());
    rejected->set_code(static_cast<int32_t>(status.code()));
    rejected->set_reason(std::string(status.message()));
    if (status.code() == absl::StatusCode::kResourceExhausted) {
      rejected->set_retry_after_ms(kRetryAfterMs);
    } else if (status.code() == absl::StatusCode::kAborted) {
      // As masters that know nothing of it take it for a full worker.
      rejected->set_code(static_cast<int32_t>(absl::StatusCode::kResourceExhausted));
      rejected->set_alone(true);
      rejected->set_retry_after_ms(kAloneRetryMs);
    }
  }
  if (unfinished_ == 0 && status.ok()) EndRest();
  unfinished_ = requests_.unfinished();
  SendData(peer.id, std::move(answer));
}

void LinkClient::OnCancel(const Peer& peer, const v1::Cancel& cancel) {
  // It may have been claimed while this was under way.
  if (requests_.IsOfAnother(cancel.request_id(), peer.id)) return;
  const std::string* model = requests_.ModelOf(cancel.request_id());
  const EnginePort* engine = model == nullptr ? nullptr : EngineOf(*model);
  if (engine == nullptr) return;
  engine->cancel(cancel.request_id(), cancel.attempt(),
                 {cancel.choices().begin(), cancel.choices().end()});
}

void LinkClient::OnBulk(Peer& peer, const v1::MasterBulk& message) {
  if (!message.has_resync_page()) return;  // of a newer protocol
  SendCacheChanges();
  // One that cannot be sent leaves a gap, after which the master asks again.
  if (auto page = cache_.Page(message.resync_page(), &peer.cache))
    peer.link->Send(*std::move(page));
}

void LinkClient::OnClaim(Peer& peer, const v1::Claim& claim) {
  RequestTable::Handover handover = requests_.Claim(claim, peer.id);
  SayFarewell(handover.previous, std::move(handover.farewell));
  if (handover.given_up) CancelAll({*handover.given_up});
  v1::WorkerData answer;
  *answer.add_claimed() = std::move(handover.answer);
  SendData(peer.id, std::move(answer));
}

void LinkClient::SayFarewell(LinkId id, std::vector<v1::StepOutput> outputs) {
  if (outputs.empty()) return;
  v1::WorkerData message;
  for (v1::StepOutput& output : outputs) *message.add_outputs() = std::move(output);
  SendData(id, std::move(message));
}

void LinkClient::OnOutputs(const std::vector<SequenceOutput>& outputs) {
  std::map<LinkId, v1::WorkerData> messages;
  for (const SequenceOutput& output : outputs) {
    const auto route = requests_.Record(output);
    if (route && route->owner != kNoLink) {
      *messages[route->owner].add_outputs() = ToMessage(output);
    }
  }
  for (auto& [id, message] : messages) SendData(id, std::move(message));
  unfinished_ = requests_.unfinished();
}

void LinkClient::SendData(LinkId id, v1::WorkerData message) {
  Peer* peer = Find(id);
  if (peer == nullptr || peer->link->Send(std::move(message))) return;
  Lose(*peer, absl::ResourceExhaustedError("the outbox to the master is full"));
}

void LinkClient::CancelAll(const std::vector<RequestTable::Ref>& requests) {
  for (const RequestTable::Ref& request : requests) {
    LogInfo("link", "giving a request up", {{"labels.request", request.id}});
    if (const EnginePort* engine = EngineOf(request.model)) {
      engine->cancel(request.id, request.attempt, {});
    }
  }
}

}  // namespace fathom::worker
