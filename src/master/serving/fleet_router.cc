#include "master/serving/fleet_router.h"

#include <algorithm>
#include <utility>

namespace fathom::master {
namespace {

// A heartbeat may have been written before what was granted shortly before it came had arrived.
constexpr int64_t kUnderWayNs = 20'000'000;

bool Same(std::string_view wanted, std::string_view has) { return wanted.empty() || wanted == has; }

}  // namespace

bool FleetRouter::Refresh(std::shared_ptr<const FleetSnapshot> fleet) {
  if (fleet == fleet_ || fleet->version < fleet_->version) return false;
  std::vector<std::optional<WorkerSlot>> slot_of(fleet->workers.size());
  for (Slot& slot : slots_) slot.present = false;
  for (size_t i = 0; i < fleet->workers.size(); ++i) {
    slot_of[i] = SlotFor(fleet->workers[i].key, i);
    if (slot_of[i]) slots_[*slot_of[i]].present = true;
  }
  fleet_ = std::move(fleet);
  slot_of_ = std::move(slot_of);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].listed && !slots_[slot].present) Forget(static_cast<WorkerSlot>(slot));
  }
  for (size_t i = 0; i < slot_of_.size(); ++i) {
    if (slot_of_[i]) NoteHeartbeat(fleet_->workers[i], *slot_of_[i]);
  }
  for (Model& model : models_) Fill(&model);
  return true;
}

// Snapshots rarely differ in who is in them, and never in their order.
std::optional<WorkerSlot> FleetRouter::SlotFor(const WorkerKey& key, size_t position) {
  if (position < slot_of_.size() && slot_of_[position] && slots_[*slot_of_[position]].key == key) {
    return slot_of_[position];
  }
  if (const auto known = SlotOf(key)) return known;
  WorkerSlot slot = 0;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
  } else if (slots_.size() < kWorkerSlotsMax) {
    slot = static_cast<WorkerSlot>(slots_.size());
    slots_.emplace_back();
    for (Model& model : models_) model.loads.emplace_back();
  } else {
    return std::nullopt;
  }
  slots_[slot] = {.key = key, .listed = true, .present = true};
  for (Model& model : models_) model.loads[slot] = {};
  by_key_.emplace(key, slot);
  return slot;
}

std::optional<WorkerSlot> FleetRouter::SlotOf(const WorkerKey& worker) const {
  const auto it = by_key_.find(worker);
  return it == by_key_.end() ? std::nullopt : std::optional(it->second);
}

void FleetRouter::Forget(WorkerSlot slot) {
  slots_[slot].listed = false;
  by_key_.erase(slots_[slot].key);
  index_.Drop(slot);
  FreeIfUnused(slot);
}

// The number of a worker that is gone is free once nothing is counted under it any more.
void FleetRouter::FreeIfUnused(WorkerSlot slot) {
  if (!slots_[slot].present && slots_[slot].requests == 0) free_.push_back(slot);
}

void FleetRouter::NoteHeartbeat(const WorkerInfo& worker, WorkerSlot slot) {
  Slot& s = slots_[slot];
  if (worker.heard_ns == s.heard_ns) return;
  s.heard_ns = worker.heard_ns;
  if (std::exchange(s.until_heard, false)) Avoid(s.key, 0);
  while (!s.unreported.empty() && s.unreported.front().at_ns < s.heard_ns - kUnderWayNs) {
    const Sent& sent = s.unreported.front();
    models_[sent.model].loads[slot].unreported_tokens -= sent.tokens;
    s.unreported.pop_front();
  }
}

uint32_t FleetRouter::ModelFor(const ModelWanted& wanted) {
  auto it = model_of_.find(wanted.name);
  if (it == model_of_.end()) {
    it = model_of_.emplace(wanted.name, static_cast<uint32_t>(models_.size())).first;
    Model& fresh = models_.emplace_back(Model{.name = it->first});
    for (const Slot& slot : slots_) {
      fresh.loads.push_back({.suspects = slot.suspects, .avoid_until_ns = slot.avoid_until_ns});
    }
  } else if (const Model& model = models_[it->second];
             model.config_digest == wanted.config_digest &&
             model.tokenizer_digest == wanted.tokenizer_digest && model.pool == wanted.pool) {
    return it->second;
  }
  Model& model = models_[it->second];
  model.config_digest = wanted.config_digest;
  model.tokenizer_digest = wanted.tokenizer_digest;
  model.pool = wanted.pool;
  Fill(&model);
  return it->second;
}

void FleetRouter::CountSuspect(WorkerSlot slot, int32_t more) {
  slots_[slot].suspects += more;
  Spread(slot);
}

void FleetRouter::Spread(WorkerSlot slot) {
  for (Model& model : models_) {
    model.loads[slot].suspects = slots_[slot].suspects;
    model.loads[slot].avoid_until_ns = slots_[slot].avoid_until_ns;
  }
}

void FleetRouter::Fill(Model* model) const {
  model->table.candidates.clear();
  model->naming_of.clear();
  model->namings.clear();
  bool any = false;
  bool ready = false;
  std::vector<size_t> unloading;  // candidates
  for (size_t i = 0; i < slot_of_.size(); ++i) {
    if (!slot_of_[i]) continue;
    const WorkerInfo& worker = fleet_->workers[i];
    if (!IsOfPool(worker, model->pool)) continue;
    any = true;
    const auto served = std::find_if(worker.models.begin(), worker.models.end(),
                                     [&](const ServedModel& m) { return m.name == model->name; });
    if (served == worker.models.end() || !served->serving()) continue;
    AddCandidate(worker, *served, *slot_of_[i], model);
    RouteCandidate& candidate = model->table.candidates.back();
    if (candidate.obstacle != RouteObstacle::kNone) continue;
    ready = ready || served->phase == ModelPhase::kReady;
    if (served->phase == ModelPhase::kUnloading) {
      unloading.push_back(model->table.candidates.size() - 1);
    }
  }
  // A model goes from a worker when nothing is left for it there: it gets no more than must be.
  for (const size_t i : unloading) {
    if (ready) model->table.candidates[i].obstacle = RouteObstacle::kNotReady;
  }
  model->table.nothing = any ? RouteObstacle::kModelNotLoaded : RouteObstacle::kNoWorker;
}

void FleetRouter::AddCandidate(const WorkerInfo& worker, const ServedModel& served, WorkerSlot slot,
                               Model* model) const {
  const bool same = Same(model->config_digest, served.config_digest) &&
                    Same(model->tokenizer_digest, served.tokenizer_digest);
  const ModelFigures& figures = worker.FiguresOf(served);
  model->table.candidates.push_back({.slot = slot,
                                     .obstacle = !same ? RouteObstacle::kModelDiffers
                                                 : worker.state != WorkerState::kReady
                                                     ? RouteObstacle::kNotReady
                                                     : RouteObstacle::kNone,
                                     .waiting = figures.waiting,
                                     .free_blocks = figures.free_blocks,
                                     .total_blocks = figures.total_blocks,
                                     .block_tokens = served.kv_block_tokens,
                                     .prefill_tokens_per_second = figures.prefill_tokens_per_second,
                                     .tokens_per_second = figures.tokens_per_second,
                                     .step_seconds = figures.running > 0 ? figures.step_seconds : 0,
                                     .credit = figures.credit,
                                     .queued_tokens = figures.queued_tokens,
                                     .heard_ns = worker.heard_ns});
  uint8_t naming = kUnnamed;
  if (!served.kv_scope.empty() && served.kv_block_tokens > 0) {
    std::vector<BlockNaming>& all = model->namings;
    const auto it = std::find_if(all.begin(), all.end(), [&](const BlockNaming& n) {
      return n.kv_scope == served.kv_scope && n.block_tokens == served.kv_block_tokens;
    });
    // A fleet of more kinds than that is served, its last kinds without regard to their caches.
    if (it != all.end() || all.size() < kNamingsMax)
      naming = static_cast<uint8_t>(it - all.begin());
    if (it == all.end() && naming != kUnnamed) {
      all.push_back({served.kv_scope, served.kv_block_tokens});
    }
  }
  model->naming_of.push_back(naming);
}

std::vector<BlockNaming> FleetRouter::NamingsOf(const ModelWanted& model) {
  return models_[ModelFor(model)].namings;
}

FleetRouter::Decision FleetRouter::Pick(const ModelWanted& wanted, PromptBlocks* prompt,
                                        int64_t cost, int64_t now_ns) {
  const uint32_t number = ModelFor(wanted);
  const Model& model = models_[number];
  matches_.clear();
  for (const BlockNaming& naming : model.namings) {
    // Names of two namings never meet: a worker is found under its own alone.
    index_.Match(prompt->Names(naming), &naming_matches_);
    matches_.insert(matches_.end(), naming_matches_.begin(), naming_matches_.end());
  }
  const Route route = PickWorker(model.table, model.loads,
                                 {.cost = cost,
                                  .prompt_tokens = prompt->num_tokens(),
                                  .matches = matches_,
                                  .draw = random_.Next(),
                                  .now_ns = now_ns});
  if (route.candidate == nullptr) return {.obstacle = route.obstacle};
  return {.slot = route.candidate->slot,
          .model = number,
          .candidate = static_cast<uint32_t>(route.candidate - model.table.candidates.data()),
          .cached_tokens = route.cached_tokens};
}

void FleetRouter::Assign(const Decision& decision, PromptBlocks* prompt, int64_t cost,
                         int64_t now_ns) {
  const WorkerSlot slot = decision.slot;
  Model& model = models_[decision.model];
  WorkerLoad& load = model.loads[slot];
  load.cost += cost;
  load.requests += 1;
  slots_[slot].requests += 1;
  const int64_t tokens = prompt->num_tokens() - decision.cached_tokens;
  load.unreported_tokens += tokens;
  slots_[slot].unreported.push_back({decision.model, tokens, now_ns});

  const uint8_t naming = model.naming_of[decision.candidate];
  if (naming != kUnnamed) index_.Expect(slot, prompt->Names(model.namings[naming]), now_ns);
}

FleetRouter::Decision FleetRouter::Adopt(WorkerSlot slot, const ModelWanted& wanted, int64_t cost) {
  const Decision decision{.slot = slot, .model = ModelFor(wanted)};
  WorkerLoad& load = models_[decision.model].loads[slot];
  load.cost += cost;
  load.requests += 1;
  slots_[slot].requests += 1;
  return decision;
}

void FleetRouter::Release(const Decision& decision, int64_t cost) {
  WorkerLoad& load = models_[decision.model].loads[decision.slot];
  load.cost -= cost;
  load.requests -= 1;
  slots_[decision.slot].requests -= 1;
  FreeIfUnused(decision.slot);
}

void FleetRouter::AvoidUntilHeard(const WorkerKey& worker, int64_t since_ns, int64_t until_ns) {
  Avoid(worker, until_ns);
  if (const auto slot = SlotOf(worker))
    slots_[*slot].until_heard = slots_[*slot].heard_ns < since_ns;
}

void FleetRouter::Avoid(const WorkerKey& worker, int64_t until_ns) {
  const auto slot = SlotOf(worker);
  if (!slot) return;
  slots_[*slot].avoid_until_ns = until_ns;
  Spread(*slot);
}

}  // namespace fathom::master
