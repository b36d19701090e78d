// The part of LinkClient that tells masters how the worker fares, and what they may send.

#include <algorithm>
#include <optional>
#include <utility>

#include "worker/credits.h"
#include "worker/link_client.h"
#include "worker/link_messages.h"

namespace fathom::worker {
namespace {

// While it has nothing to do, a worker sends so many times fewer heartbeats.
constexpr int64_t kIdleBeats = 16;

}  // namespace

void LinkClient::SendHeartbeatsNow() {
  for (Peer& peer : peers_) peer.beat_at_ns = 0;
  SendHeartbeats(options_.clock->MonotonicNs());
}

// Whoever waits for a worker that was idle is to know soon when it falls silent, be it before the
// next tick. Masters that were told of work a moment ago need no more.
void LinkClient::EndRest() {
  for (Peer& peer : peers_) {
    if (peer.rests) peer.beat_at_ns = 0;
  }
  SendHeartbeats(options_.clock->MonotonicNs());
}

LinkClient::Figures LinkClient::FiguresOf(const std::string& name, Model& model,
                                          const std::vector<Peer*>& linked, int64_t now_ns) {
  const EngineStats stats = model.engine->stats();
  Figures figures{.model = {}, .engine = stats, .credits = {}};
  std::vector<CreditClaim> claims;
  claims.reserve(linked.size());
  for (const Peer* peer : linked) {
    claims.push_back({requests_.in_flight(peer->id, name), BacklogOf(*peer, name)});
  }
  // An engine that has ended tells of no blocks.
  figures.credits = GrantCredits(stats.total_blocks > 0 ? model.capacity : 0,
                                 requests_.in_flight(kNoLink, name), claims);
  figures.model.set_model(name);
  figures.model.set_waiting(stats.waiting);
  figures.model.set_running(stats.running);
  figures.model.set_free_blocks(stats.free_blocks);
  figures.model.set_total_blocks(stats.total_blocks);
  figures.model.set_tokens_per_second(
      static_cast<float>(model.tokens.Update(stats.output_tokens, now_ns)));
  figures.model.set_queued_tokens(stats.queued_tokens);
  figures.model.set_prefill_tokens_per_second(static_cast<float>(stats.prefill_tokens_per_second));
  figures.model.set_step_time_us(
      static_cast<int32_t>(std::clamp<int64_t>(stats.step_ns / 1000, 0, INT32_MAX)));
  return figures;
}

v1::Heartbeat LinkClient::Sum(const std::vector<Figures>& models, int64_t now_ns) const {
  v1::Heartbeat beat;
  bool dead = dead_ || crashed_;
  int64_t deadline_ns = 0;
  for (const Figures& figures : models) {
    const EngineStats& stats = figures.engine;
    const v1::ModelFigures& model = figures.model;
    dead = dead || stats.state == EngineState::kDead;
    if (stats.step_deadline_ns != 0) {
      deadline_ns =
          deadline_ns == 0 ? stats.step_deadline_ns : std::min(deadline_ns, stats.step_deadline_ns);
    }
    beat.set_engine_step(beat.engine_step() + stats.steps);
    beat.set_waiting(beat.waiting() + model.waiting());
    beat.set_running(beat.running() + model.running());
    beat.set_free_blocks(beat.free_blocks() + model.free_blocks());
    beat.set_total_blocks(beat.total_blocks() + model.total_blocks());
    beat.set_tokens_per_second(beat.tokens_per_second() + model.tokens_per_second());
    beat.set_queued_tokens(beat.queued_tokens() + model.queued_tokens());
    beat.set_prefill_tokens_per_second(beat.prefill_tokens_per_second() +
                                       model.prefill_tokens_per_second());
    beat.set_step_time_us(static_cast<int32_t>(
        std::min<int64_t>(int64_t{beat.step_time_us()} + model.step_time_us(), INT32_MAX)));
    if (model.total_blocks() > 0) {
      beat.set_saturation(std::max(
          beat.saturation(),
          1 - static_cast<float>(model.free_blocks()) / static_cast<float>(model.total_blocks())));
    }
  }
  if (deadline_ns != 0) {
    const int64_t left_ms = (deadline_ns - now_ns) / 1'000'000;
    beat.set_step_deadline_ms(left_ms == 0 ? -1 : left_ms);
  }
  beat.set_state(dead       ? v1::ENGINE_STATE_DEAD
                 : leaving_ ? v1::ENGINE_STATE_DRAINING
                            : v1::ENGINE_STATE_READY);
  if (worker_.free_memory) beat.set_free_memory_bytes(worker_.free_memory());
  return beat;
}

void LinkClient::SendHeartbeats(int64_t now_ns) {
  std::vector<Peer*> linked;
  bool due = false;
  for (Peer& peer : peers_) {
    if (!peer.welcomed) continue;
    linked.push_back(&peer);
    due = due || peer.beat_at_ns <= now_ns;
  }
  if (!due) return;

  std::vector<Figures> models;
  for (auto& [name, model] : models_) {
    if (model.engine) models.push_back(FiguresOf(name, model, linked, now_ns));
  }
  const v1::Heartbeat sum = Sum(models, now_ns);
  const bool idle = requests_.unfinished() == 0 && sum.waiting() + sum.running() == 0;
  // The first heartbeat to say that the worker is dead ends the link; it may be one that was due.
  std::optional<v1::WorkerControl> last_words;
  if (sum.state() == v1::ENGINE_STATE_DEAD) last_words = LastWords();
  for (size_t i = 0; i < linked.size(); ++i) {
    Peer& peer = *linked[i];
    if (peer.beat_at_ns > now_ns) continue;
    if (last_words) peer.link->Send(*last_words);
    const int64_t next_ns = peer.beat_every_ns * (idle ? kIdleBeats : 1);
    peer.beat_at_ns = now_ns + next_ns;
    peer.rests = idle;
    v1::WorkerControl message;
    v1::Heartbeat& beat = *message.mutable_heartbeat();
    beat = sum;
    beat.set_next_ms(static_cast<int32_t>(next_ns / 1'000'000));
    beat.set_sequence(++peer.beats);
    for (const Figures& figures : models) {
      beat.set_credit(beat.credit() + figures.credits[i]);
      if (models.size() == 1) break;
      *beat.add_models() = figures.model;
      beat.mutable_models()->rbegin()->set_credit(figures.credits[i]);
    }
    if (!peer.link->Send(std::move(message))) {
      Lose(peer, absl::ResourceExhaustedError("the control outbox is full"));
    }
  }
}

}  // namespace fathom::worker
