#include "master/fleet/link_hub.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "master/fleet/link_messages.h"

namespace fathom::master {
namespace {

constexpr size_t kControlOutboxBytes = size_t{4} << 20;
constexpr size_t kBulkOutboxBytes = size_t{1} << 20;
constexpr std::chrono::milliseconds kTick(50);
// Idle workers hear of every so many heartbeats one: two seconds, well within the three after which
// they would take a master for gone.
constexpr uint64_t kIdleBeats = 8;
constexpr int64_t kOversleptNs = 500'000'000;
// A stream that has not said who it is by then is cut.
constexpr int64_t kGreetingNs = 5'000'000'000;

void LogEnd(const WorkerInfo& last, const WorkerLoss& loss, bool as_it_said) {
  const LogField worker{"labels.worker", last.key.id};
  const LogField in_flight{"labels.in_flight", int64_t{last.in_flight}};
  if (as_it_said && last.in_flight == 0) {
    return LogInfo("link", "worker left as it said it would", {worker, in_flight});
  }
  const LogField why{"error.message", std::string(loss.reason.message())};
  if (loss.kind == LossKind::kLeft) {
    return LogInfo("link", "link to worker ended", {worker, in_flight, why});
  }
  LogWarn("link", "worker lost", {worker, in_flight, why});
}

}  // namespace

grpc::ServerBidiReactor<v1::WorkerControl, v1::MasterControl>* LinkHub::OpenControl(
    grpc::CallbackServerContext* context) {
  return Open<ControlStream>(
      context, kControlOutboxBytes,
      [](LinkHub& hub, Binding& binding, ControlStream& stream, const v1::WorkerControl& message) {
        return hub.OnControl(binding, stream, message);
      });
}

grpc::ServerBidiReactor<v1::WorkerData, v1::MasterData>* LinkHub::OpenData(
    grpc::CallbackServerContext* context) {
  return Open<DataStream>(
      context, options_.outbox_bytes,
      [](LinkHub& hub, Binding& binding, DataStream& stream, const v1::WorkerData& message) {
        return hub.OnData(binding, stream, message);
      });
}

grpc::ServerBidiReactor<v1::WorkerBulk, v1::MasterBulk>* LinkHub::OpenBulk(
    grpc::CallbackServerContext* context) {
  return Open<BulkStream>(
      context, kBulkOutboxBytes,
      [](LinkHub& hub, Binding& binding, BulkStream& stream, const v1::WorkerBulk& message) {
        return hub.OnBulk(binding, stream, message);
      });
}

absl::Status LinkHub::CheckModels(const v1::Hello& hello) const {
  for (const v1::LoadedModel& model : hello.models()) {
    const auto found =
        std::find_if(options_.expected_models.begin(), options_.expected_models.end(),
                     [&](const ExpectedModel& e) { return e.name == model.name(); });
    if (found == options_.expected_models.end()) continue;
    const ExpectedModel& expected = *found;
    if (model.config_digest() == expected.config_digest &&
        model.tokenizer_digest() == expected.tokenizer_digest) {
      continue;
    }
    const bool config = model.config_digest() != expected.config_digest;
    return absl::FailedPreconditionError(absl::StrCat(
        "model '", model.name(), "' of worker '", hello.worker_id(), "' is not this master's: its ",
        config ? "config.json" : "tokenizer.json", " has SHA-256 ",
        config ? model.config_digest() : model.tokenizer_digest(), ", the master's has ",
        config ? expected.config_digest : expected.tokenizer_digest));
  }
  return absl::OkStatus();
}

void LinkHub::LogRefused(const std::string& peer, const absl::Status& why) {
  // Without the port, which is another one each time.
  const auto held_back = refusals_.Say(peer.substr(0, peer.rfind(':')));
  if (!held_back) return;
  LogWarn("link", "caller refused",
          {{"source.address", peer},
           {"error.message", std::string(why.message())},
           {"labels.held_back", *held_back}});
}

absl::Status LinkHub::Greet(Binding& binding, ControlStream& stream, const v1::Hello& hello) {
  RETURN_IF_ERROR(CheckHello(hello));
  RETURN_IF_ERROR(CheckModels(hello));
  auto session = std::make_shared<WorkerSession>(
      hello, RandomHex(*options_.random, 16), options_.heartbeat, options_.silence_floor, NowNs(),
      std::static_pointer_cast<ControlStream>(stream.shared_from_this()),
      [hub = weak_from_this()](FleetNews news) {
        if (const auto self = hub.lock()) self->registry_.Changed(news);
      });
  RETURN_IF_ERROR(registry_.Add(session));
  binding.set(session);
  LogInfo("link", "worker linked",
          {{"labels.worker", session->key().id},
           {"labels.incarnation", session->key().incarnation},
           {"labels.build", hello.build()}});

  v1::MasterControl answer;
  v1::Welcome* welcome = answer.mutable_welcome();
  welcome->set_master_id(options_.master_id);
  welcome->set_session_id(session->session_id());
  welcome->set_heartbeat_ms(static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat)));
  const ClusterNews cluster = this->cluster();
  welcome->set_epoch(cluster.epoch);
  welcome->set_address(cluster.address);
  welcome->mutable_masters()->Add(cluster.masters.begin(), cluster.masters.end());
  welcome->set_incarnation(absl::HexStringToBytes(incarnation_));
  if (!stream.Send(std::move(answer))) {
    absl::Status gone = absl::UnavailableError("the worker left while it was greeted");
    Kill(*session, {LossKind::kBroken, gone});
    return gone;
  }
  for (v1::MasterControl& condemned : condemned_.All()) stream.Send(std::move(condemned));
  registry_.Changed(FleetNews::kMembers);
  return absl::OkStatus();
}

absl::Status LinkHub::OnControl(Binding& binding, ControlStream& stream,
                                const v1::WorkerControl& message) {
  const auto session = binding.get();
  if (session == nullptr) {
    if (!message.has_hello()) return absl::InvalidArgumentError("the first message is Hello");
    absl::Status status = Greet(binding, stream, message.hello());
    if (!status.ok()) {
      LogWarn("link", "worker refused",
              {{"labels.worker", message.hello().worker_id().substr(0, 256)},
               {"error.message", std::string(status.message())}});
    }
    return status;
  }
  if (message.has_hello()) return absl::InvalidArgumentError("Hello comes once");
  if (message.has_heartbeat()) {
    session->OnHeartbeat(message.heartbeat(), NowNs());
    // Its streams are about to break, which would tell less.
    if (message.heartbeat().state() == v1::ENGINE_STATE_DEAD) {
      if (const auto loss = session->Judge(NowNs(), 0)) Kill(*session, *loss);
    }
  }
  if (message.has_last_words()) {
    RETURN_IF_ERROR(condemned_.Hear(message.last_words()));
    session->OnLastWords(message.last_words());
    Kill(*session, {LossKind::kCrash, absl::UnavailableError("the worker's engine is dead")});
  }
  if (message.has_leaving()) session->OnLeaving(message.leaving().reason());
  if (message.has_condemned()) {
    ASSIGN_OR_RETURN(const auto news, condemned_.Hear(message.condemned()));
    if (news) TellAll(*news, session.get());
  }
  if (message.has_model_state()) return session->OnModelState(message.model_state());
  // Others are of a newer protocol and may be passed over.
  return absl::OkStatus();
}

absl::Status LinkHub::OnData(Binding& binding, DataStream& stream, const v1::WorkerData& message) {
  auto session = binding.get();
  if (session == nullptr) {
    session = registry_.FindBySession(message.session_id());
    if (session == nullptr) return absl::UnauthenticatedError("no such session");
    if (!session->BindData(std::static_pointer_cast<DataStream>(stream.shared_from_this()))) {
      return absl::AlreadyExistsError("the session has its data stream");
    }
    binding.set(session);
    if (stream.ended()) Kill(*session, LinkBroke());
  }
  return session->OnData(message, NowNs());
}

absl::Status LinkHub::OnBulk(Binding& binding, BulkStream& stream, const v1::WorkerBulk& message) {
  auto session = binding.get();
  if (session == nullptr) {
    session = registry_.FindBySession(message.session_id());
    if (session == nullptr) return absl::UnauthenticatedError("no such session");
    if (!session->BindBulk(std::static_pointer_cast<BulkStream>(stream.shared_from_this()))) {
      return absl::AlreadyExistsError("the session has its bulk stream");
    }
    binding.set(session);
    if (stream.ended()) Kill(*session, LinkBroke());
  }
  ASSIGN_OR_RETURN(const std::optional<CacheUpdate> update, session->OnBulk(message));
  if (update) registry_.CacheChanged(session->key(), *update);
  return absl::OkStatus();
}

void LinkHub::Kill(WorkerSession& session, const WorkerLoss& loss) {
  const WorkerInfo last = session.Info();
  const bool draining = last.state == WorkerState::kDraining;
  // A worker that has said that it leaves ends its streams when it is done.
  const bool ended = draining && loss.kind == LossKind::kBroken;
  if (!session.Die(ended ? WorkerLoss{LossKind::kLeft, loss.reason} : loss)) return;
  registry_.Remove(session);
  LogEnd(last, loss, ended);
  registry_.Changed(FleetNews::kMembers);
}

void LinkHub::Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
                    std::function<void(ClaimOutcome)> done) {
  const std::vector<std::shared_ptr<WorkerSession>> sessions = registry_.All();
  auto round = std::make_shared<ClaimRound>(sessions.size(), NowNs(), std::move(done));
  for (const std::shared_ptr<WorkerSession>& session : sessions) {
    const std::weak_ptr<WorkerSession> weak = session;
    session->Claim(request, listener,
                   [round, weak, id = request.request_id](WorkerSession::ClaimAnswer answer) {
                     const uint32_t attempt = answer.attempt;
                     const bool found = answer.work.has_value();
                     if (round->Answer(std::move(answer)) || !found) return;
                     // Its listener goes on without it.
                     if (const auto late = weak.lock()) late->Cancel(id, attempt, {});
                   });
  }
  if (round->over()) return;
  const std::lock_guard lock(mutex_);
  rounds_.push_back(round);
}

void LinkHub::TellAll(const v1::MasterControl& message, const WorkerSession* except) {
  for (const std::shared_ptr<WorkerSession>& session : registry_.All()) {
    if (session.get() != except) session->SendControl(message);
  }
}

void LinkHub::ReportBacklog(const std::string& model, int64_t cost) {
  const std::lock_guard lock(mutex_);
  if (cost > 0) {
    backlog_[model] = cost;
  } else {
    backlog_.erase(model);
  }
}

void LinkHub::Run() {
  int64_t last_ns = NowNs();
  int64_t last_beat_ns = last_ns - absl::ToInt64Nanoseconds(options_.heartbeat);
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kTick, [this] { return stopping_; })) {
    lock.unlock();
    const int64_t now_ns = NowNs();
    const int64_t slept_ns = now_ns - last_ns > kOversleptNs ? now_ns - last_ns : 0;
    const bool beat = now_ns - last_beat_ns >= absl::ToInt64Nanoseconds(options_.heartbeat);
    if (beat) last_beat_ns = now_ns;
    last_ns = now_ns;
    Tick(now_ns, slept_ns, beat);
    lock.lock();
  }
}

void LinkHub::Tick(int64_t now_ns, int64_t slept_ns, bool beat) {
  v1::MasterControl message;
  Backlog backlog;
  bool quiet = false;  // nothing that idle workers would have to know
  if (beat) {
    {
      const std::lock_guard lock(mutex_);
      backlog = backlog_;
    }
    message.mutable_heartbeat()->set_sequence(++beats_);
    quiet = backlog == std::exchange(told_backlog_, backlog) && beats_ % kIdleBeats != 0;
    ClusterNews cluster = this->cluster();
    if (!cluster.masters.empty() && cluster.masters != told_masters_) {
      message.mutable_heartbeat()->set_address(cluster.address);
      message.mutable_heartbeat()->mutable_masters()->Add(cluster.masters.begin(),
                                                          cluster.masters.end());
      told_masters_ = std::move(cluster.masters);
      quiet = false;
    }
  }
  for (const auto& session : registry_.All()) {
    std::optional<WorkerLoss> verdict = session->Judge(now_ns, slept_ns);
    if (beat) session->SetShare(backlog, message.mutable_heartbeat());
    if (!verdict && beat && !(quiet && session->Idle()) && !session->SendControl(message)) {
      verdict = {LossKind::kSilent,
                 absl::UnavailableError("the control outbox to the worker is full")};
    }
    if (verdict) Kill(*session, *verdict);
  }

  std::vector<Guest> late;
  std::vector<std::shared_ptr<ClaimRound>> rounds;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(rounds_, [&](const std::weak_ptr<ClaimRound>& weak) {
      auto round = weak.lock();
      if (round == nullptr || round->over()) return true;
      if (!round->Late(now_ns)) return false;
      rounds.push_back(std::move(round));
      return true;
    });
    std::erase_if(guests_, [&](Guest& guest) {
      if (guest.alive.expired()) return true;
      if (now_ns - guest.since_ns < kGreetingNs) return false;
      late.push_back(std::move(guest));
      return true;
    });
  }
  for (const Guest& guest : late) guest.cut();
  for (const auto& round : rounds) round->End();
}

}  // namespace fathom::master
