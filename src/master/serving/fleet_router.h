#pragma once

// What the router remembers between decisions: a number for every worker, what this master has on
// each, which prefixes each holds, and the tables that decisions read. It turns news of the fleet
// into those tables, so that a decision touches neither strings nor snapshots.
//
// Thread safety: none; the dispatcher's lock covers it.

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/random.h"
#include "master/fleet/fleet.h"
#include "master/serving/prefix_index.h"
#include "master/serving/prompt_blocks.h"
#include "master/serving/router.h"

namespace fathom::master {

struct WorkerKeyLess {
  bool operator()(const WorkerKey& a, const WorkerKey& b) const {
    return a.id != b.id ? a.id < b.id : a.incarnation < b.incarnation;
  }
};

// Which workers may serve a model.
struct ModelWanted {
  std::string_view name;
  std::string_view config_digest;     // of the master's model; empty: any
  std::string_view tokenizer_digest;  // likewise
  std::string_view pool;              // the label of its workers; empty: any
};

class FleetRouter {
 public:
  struct Decision {
    RouteObstacle obstacle = RouteObstacle::kNone;  // not kNone: no worker, and the rest is unset
    WorkerSlot slot = 0;
    uint32_t model = 0;         // the router's number for it
    uint32_t candidate = 0;     // in the model's table
    int32_t cached_tokens = 0;  // of the prompt, that the worker is expected to hold
  };

  explicit FleetRouter(uint64_t seed, const PrefixIndexLimits& limits = {})
      : random_(seed), index_(limits) {}

  // Takes in a snapshot. False when it is no news.
  bool Refresh(std::shared_ptr<const FleetSnapshot> fleet);

  // How the workers of a model name its blocks.
  std::vector<BlockNaming> NamingsOf(const ModelWanted& model);
  Decision Pick(const ModelWanted& model, PromptBlocks* prompt, int64_t cost, int64_t now_ns);
  // The request goes where Pick, called just before, has said; given back by Release.
  void Assign(const Decision& decision, PromptBlocks* prompt, int64_t cost, int64_t now_ns);
  // A request that runs there already is this master's now; given back by Release.
  Decision Adopt(WorkerSlot slot, const ModelWanted& model, int64_t cost);
  void Release(const Decision& decision, int64_t cost);
  // The worker runs a request that may crash it, and gets nothing new until ClearSuspect.
  void SetSuspect(WorkerSlot slot) { CountSuspect(slot, 1); }
  void ClearSuspect(WorkerSlot slot) { CountSuspect(slot, -1); }
  // No work for it until then.
  void Avoid(const WorkerKey& worker, int64_t until_ns);
  // Likewise; sooner once it is heard, unless it was heard since `since_ns` all the same.
  void AvoidUntilHeard(const WorkerKey& worker, int64_t since_ns, int64_t until_ns);
  const WorkerKey& KeyOf(WorkerSlot slot) const { return slots_[slot].key; }

  // Its number, if it is in the fleet.
  std::optional<WorkerSlot> SlotOf(const WorkerKey& worker) const;
  PrefixIndex& index() { return index_; }

 private:
  struct Sent {
    uint32_t model = 0;
    int64_t tokens = 0;  // to compute
    int64_t at_ns = 0;
  };
  struct Slot {
    WorkerKey key;
    bool listed = false;   // in by_key_
    bool present = false;  // in the last snapshot
    int64_t heard_ns = 0;
    int32_t requests = 0;        // of all models
    int32_t suspects = 0;        // as every model's loads have it
    int64_t avoid_until_ns = 0;  // likewise
    bool until_heard = false;    // that it is avoided
    std::deque<Sent> unreported;
  };
  struct Model {
    std::string name;
    std::string config_digest;
    std::string tokenizer_digest;
    std::string pool;
    RouteTable table;
    std::vector<WorkerLoad> loads;     // by slot
    std::vector<BlockNaming> namings;  // of `table`, each once
    std::vector<uint8_t> naming_of;    // by candidate: index into namings, or kUnnamed
  };
  static constexpr size_t kNamingsMax = 4;
  static constexpr uint8_t kUnnamed = UINT8_MAX;

  std::optional<WorkerSlot> SlotFor(const WorkerKey& key, size_t position);
  void Forget(WorkerSlot slot);
  void FreeIfUnused(WorkerSlot slot);
  void NoteHeartbeat(const WorkerInfo& worker, WorkerSlot slot);
  uint32_t ModelFor(const ModelWanted& wanted);
  void CountSuspect(WorkerSlot slot, int32_t more);
  // All models' loads on the worker take over what the slot says of it.
  void Spread(WorkerSlot slot);
  void Fill(Model* model) const;
  void AddCandidate(const WorkerInfo& worker, const ServedModel& served, WorkerSlot slot,
                    Model* model) const;

  SeededRandom random_;
  PrefixIndex index_;
  std::shared_ptr<const FleetSnapshot> fleet_ = std::make_shared<FleetSnapshot>();
  std::vector<std::optional<WorkerSlot>> slot_of_;  // by position in fleet_
  std::map<WorkerKey, WorkerSlot, WorkerKeyLess> by_key_;
  std::vector<Slot> slots_;
  std::vector<WorkerSlot> free_;
  std::map<std::string, uint32_t, std::less<>> model_of_;  // those that were asked for
  std::deque<Model> models_;                               // by number
  std::vector<PrefixMatch> matches_;                       // kept for their memory
  std::vector<PrefixMatch> naming_matches_;
};

}  // namespace fathom::master
