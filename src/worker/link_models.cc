// The part of LinkClient that has to do with which models there are: what masters order, what they
// are told, what of their work is for which.

#include <algorithm>
#include <utility>

#include "common/logging.h"
#include "worker/link_client.h"

namespace fathom::worker {

bool LinkClient::IsOrderOfLeader(const Peer& peer, uint64_t epoch) {
  if (epoch < epoch_) {
    LogWarn("link", "an order of a leader that is none any more is refused",
            {{"server.address", peer.address},
             {"labels.epoch", static_cast<int64_t>(epoch)},
             {"labels.epoch_known", static_cast<int64_t>(epoch_)}});
    return false;
  }
  epoch_ = epoch;
  return true;
}

void LinkClient::OnDrain(const Peer& peer, const v1::Drain& drain) {
  if (!IsOrderOfLeader(peer, drain.epoch())) return;
  LogInfo("link", "a master wants this worker to leave", {{"server.address", peer.address}});
  worker_.leave();
}

void LinkClient::OnLoad(const Peer& peer, const v1::Load& load) {
  if (!IsOrderOfLeader(peer, load.epoch()) || leaving_) return;
  LogInfo("link", "a master wants a model loaded",
          {{"server.address", peer.address}, {"labels.model", load.model().substr(0, 256)}});
  worker_.load(load);
}

void LinkClient::OnUnload(const Peer& peer, const v1::Unload& unload) {
  if (!IsOrderOfLeader(peer, unload.epoch())) return;
  LogInfo("link", "a master wants a model unloaded",
          {{"server.address", peer.address}, {"labels.model", unload.model().substr(0, 256)}});
  worker_.unload(unload.model());
}

void LinkClient::OnModel(ModelNews news) {
  Post([this, news = std::move(news)]() mutable { OnNews(std::move(news)); });
}

void LinkClient::OnNews(ModelNews news) {
  const std::string name = news.state.model();
  const v1::ModelPhase phase = news.state.phase();
  Model& model = models_[name];
  const bool served = model.engine.has_value();
  if (news.engine) {
    model.engine = std::move(news.engine);
    model.loaded = news.state.loaded();
    model.serial = ++served_;
    model.capacity = news.capacity;
    model.tokens = {};
  } else if (phase != v1::MODEL_PHASE_READY && phase != v1::MODEL_PHASE_UNLOADING) {
    model.engine.reset();
  }
  model.state = std::move(news.state);
  for (Peer& peer : peers_) {
    if (peer.welcomed) TellModel(peer, model.state);
  }
  const bool serves = model.engine.has_value();
  if (phase == v1::MODEL_PHASE_GONE) models_.erase(name);
  if (served && !serves) TellCacheChanges(cache_.Forget(name));
  if (served != serves) SendHeartbeatsNow();
}

v1::Hello LinkClient::Greeting(Peer& peer) const {
  v1::Hello hello = options_.hello;
  hello.clear_models();
  peer.greeted.clear();
  for (const auto& [name, model] : models_) {
    if (!model.engine) continue;
    *hello.add_models() = model.loaded;
    peer.greeted[name] = model.serial;
  }
  return hello;
}

void LinkClient::TellModels(Peer& peer) {
  const auto greeted = [&peer](const std::string& name, uint64_t serial) {
    const auto it = peer.greeted.find(name);
    return it != peer.greeted.end() && it->second == serial;
  };
  for (const auto& [name, serial] : peer.greeted) {
    const auto it = models_.find(name);
    if (it != models_.end() && it->second.engine && it->second.serial == serial) continue;
    v1::ModelState gone;
    gone.set_model(name);
    gone.set_phase(v1::MODEL_PHASE_GONE);
    TellModel(peer, gone);
  }
  for (const auto& [name, model] : models_) {
    const bool known = model.state.phase() == v1::MODEL_PHASE_READY && greeted(name, model.serial);
    if (!known) TellModel(peer, model.state);
  }
}

void LinkClient::TellModel(Peer& peer, const v1::ModelState& state) {
  if (peer.link == nullptr) return;
  v1::WorkerControl message;
  *message.mutable_model_state() = state;
  if (peer.link->Send(std::move(message))) return;
  Lose(peer, absl::ResourceExhaustedError("the control outbox is full"));
}

void LinkClient::OnBacklog(Peer& peer, const v1::MasterHeartbeat& heartbeat) {
  std::map<std::string, int64_t> backlogs;
  for (const v1::ModelBacklog& backlog : heartbeat.backlogs()) {
    if (models_.contains(backlog.model())) backlogs[backlog.model()] = backlog.cost();
  }
  const bool changed = peer.backlog != heartbeat.backlog_cost() || peer.backlogs != backlogs;
  peer.backlog = heartbeat.backlog_cost();
  peer.backlogs = std::move(backlogs);
  if (!changed) return;
  // Credits change with it, also where the next heartbeats are a while away.
  const int64_t soon_ns = options_.clock->MonotonicNs() + peer.beat_every_ns;
  for (Peer& other : peers_) other.beat_at_ns = std::min(other.beat_at_ns, soon_ns);
}

int64_t LinkClient::BacklogOf(const Peer& peer, const std::string& model) const {
  const auto it = peer.backlogs.find(model);
  if (it != peer.backlogs.end()) return it->second;
  const auto serving = std::count_if(models_.begin(), models_.end(), [](const auto& entry) {
    return entry.second.engine.has_value();
  });
  return peer.backlogs.empty() && serving == 1 ? peer.backlog : 0;
}

bool LinkClient::IsInUse(const std::string& model) const {
  if (requests_.unfinished(model) > 0) return true;
  return std::any_of(peers_.begin(), peers_.end(),
                     [&](const Peer& peer) { return peer.welcomed && BacklogOf(peer, model) > 0; });
}

const EnginePort* LinkClient::EngineOf(const std::string& model) const {
  const auto it = models_.find(model);
  return it != models_.end() && it->second.engine ? &*it->second.engine : nullptr;
}

void LinkClient::SendCacheChanges() {
  for (const auto& [name, model] : models_) {
    if (!model.engine) continue;
    const CacheChanges changes = model.engine->cache_changes();
    if (!changes.empty()) TellCacheChanges(cache_.Apply(name, changes));
  }
}

void LinkClient::TellCacheChanges(const CacheChanges& changes) {
  for (Peer& peer : peers_) {
    for (v1::WorkerBulk& message : CacheTeller::Tell(changes, &peer.cache)) {
      peer.link->Send(std::move(message));
    }
  }
}

}  // namespace fathom::worker
