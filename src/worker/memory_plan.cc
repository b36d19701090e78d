#include "worker/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/logging.h"
#include "worker/memory_budget.h"

namespace fathom::worker {
namespace {

constexpr double kGiB = 1 << 30;
constexpr int32_t kSmallestStep = 64;

// What is needed is rounded up, what there is down.
std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", std::ceil(static_cast<double>(bytes) / kGiB * 10) / 10);
}
std::string GibThere(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", std::floor(static_cast<double>(bytes) / kGiB * 10) / 10);
}

int64_t BlockBytes(const KvSpec& spec) {
  int64_t bytes = 0;
  for (size_t group = 0; group < spec.groups.size(); ++group) bytes += spec.BytesPerBlock(group);
  return std::max<int64_t>(1, bytes);
}

int64_t CacheBytes(const KvSpec& spec, int32_t tokens) {
  return (int64_t{tokens} + spec.block_tokens - 1) / spec.block_tokens * BlockBytes(spec);
}

// The longest sequence there may be, if the cache has room for it.
int32_t ContextMax(const ModelSizes& sizes, const MemoryWishes& wishes) {
  return wishes.max_context > 0 ? std::min(sizes.max_context, wishes.max_context)
                                : sizes.max_context;
}

// The longest sequence that the smallest useful cache holds.
int32_t SmallestTokens(const ModelSizes& sizes, const MemoryWishes& wishes) {
  const int32_t tokens = ContextMax(sizes, wishes);
  return wishes.max_context > 0 ? tokens : std::min(tokens, kSmallestContext);
}

struct Needs {
  int64_t weights = 0;
  int64_t scratch = 0;
  int64_t kv = 0;
  int64_t graphs = 0;
  int64_t spare = 0;
  int64_t Sum() const { return weights + scratch + kv + graphs + spare; }
};

Needs NeedsOf(const ModelSizes& sizes, const MemoryWishes& wishes) {
  Needs needs;
  needs.weights = sizes.weight_bytes;
  needs.scratch = sizes.scratch_bytes;
  if (sizes.device) needs.graphs = kGraphBytes;
  // A cache of a given size is its owner's to answer for.
  if (wishes.kv_cache_bytes > 0) {
    const int64_t most = CacheBytes(sizes.kv, ContextMax(sizes, wishes)) * wishes.max_sequences;
    needs.kv = std::min(wishes.kv_cache_bytes, most);
    return needs;
  }
  needs.kv = CacheBytes(sizes.kv, SmallestTokens(sizes, wishes));
  needs.spare = sizes.device ? kSpareBytes : FreeBytesForKv(needs.kv) - needs.kv;
  return needs;
}

// The same model under other limits of a step.
ModelSizes Resized(ModelSizes sizes, const MemoryWishes& from, const MemoryWishes& to) {
  const int64_t rows =
      LogitRows(to.step_tokens, to.max_sequences) - LogitRows(from.step_tokens, from.max_sequences);
  sizes.scratch_bytes += (to.step_tokens - from.step_tokens) * sizes.scratch_bytes_per_token +
                         rows * sizes.scratch_bytes_per_row;
  return sizes;
}

// Flags with which the model fits, those that cost their user least first; none when nothing helps.
std::vector<std::string> FlagsThatFit(const ModelSizes& sizes, const MemoryWishes& wishes,
                                      int64_t free_bytes) {
  MemoryWishes wish = wishes;
  std::vector<std::string> flags;
  const auto fits = [&] { return NeedsOf(Resized(sizes, wishes, wish), wish).Sum() <= free_bytes; };
  const int64_t left = free_bytes - sizes.weight_bytes - sizes.scratch_bytes;
  if (wish.kv_cache_bytes > 0) {
    const int64_t most = left - (sizes.device ? kGraphBytes : 0);
    if (most >= CacheBytes(sizes.kv, SmallestTokens(sizes, wish))) {
      return {absl::StrCat("--kv-cache-bytes ", most)};
    }
    wish.kv_cache_bytes = 0;
    flags.emplace_back("no --kv-cache-bytes");
  }
  if (!fits() && wish.max_context > kSmallestContext) {
    const int64_t tokens = KvShareBytes(sizes, left) / BlockBytes(sizes.kv) * sizes.kv.block_tokens;
    wish.max_context =
        static_cast<int32_t>(std::clamp<int64_t>(tokens, kSmallestContext, wish.max_context));
    flags.push_back(absl::StrCat("--max-context ", wish.max_context));
  }
  if (!fits() && wish.max_sequences > kMinLogitRows) {
    wish.max_sequences = kMinLogitRows;
    flags.push_back(absl::StrCat("--max-sequences ", wish.max_sequences));
  }
  if (!fits() && wish.step_tokens > kSmallestStep) {
    while (!fits() && wish.step_tokens > kSmallestStep) {
      wish.step_tokens = std::max(kSmallestStep, wish.step_tokens / 2);
    }
    flags.push_back(absl::StrCat("--step-tokens ", wish.step_tokens));
  }
  if (!fits()) flags.clear();
  return flags;
}

}  // namespace

int32_t LogitRows(int32_t step_tokens, int32_t max_sequences) {
  return std::min(step_tokens, std::max(max_sequences, kMinLogitRows));
}

absl::Status CheckFits(const ModelSizes& sizes, const MemoryWishes& wishes, int64_t free_bytes) {
  const Needs needs = NeedsOf(sizes, wishes);
  if (needs.Sum() <= free_bytes) return absl::OkStatus();
  std::vector<std::string> parts = {
      absl::StrCat("weights ", Gib(needs.weights)),
      absl::StrCat("steps of ", wishes.step_tokens, " tokens ", Gib(needs.scratch)),
      wishes.kv_cache_bytes > 0
          ? absl::StrCat("the KV cache asked for ", Gib(needs.kv))
          : absl::StrCat("the smallest useful KV cache (", SmallestTokens(sizes, wishes),
                         " tokens) ", Gib(needs.kv))};
  if (needs.graphs > 0) parts.push_back(absl::StrCat("recorded steps ", Gib(needs.graphs)));
  if (needs.spare > 0) parts.push_back(absl::StrCat("left free ", Gib(needs.spare)));

  std::string has = absl::StrCat(GibThere(free_bytes), " free");
  std::vector<std::string> ways;
  const std::vector<std::string> flags = FlagsThatFit(sizes, wishes, free_bytes);
  if (!flags.empty()) ways.push_back(absl::StrCat("give ", absl::StrJoin(flags, " and ")));
  if (sizes.device) {
    const int64_t usable = sizes.device->total_bytes - sizes.device->workspace_bytes;
    has = absl::StrCat(has, " of ", GibThere(sizes.device->total_bytes), " (", sizes.device->name,
                       ")");
    if (needs.Sum() <= usable) ways.emplace_back("end what else uses its memory (see nvidia-smi)");
  }
  ways.push_back(absl::StrCat("use a ", sizes.device ? "GPU" : "machine", " with at least ",
                              Gib(needs.Sum()), " free"));
  return absl::ResourceExhaustedError(absl::StrCat(
      "the model does not fit: it needs ", Gib(needs.Sum()), " (", absl::StrJoin(parts, ", "),
      "), ", wishes.device, " has ", has, "; ", absl::StrJoin(ways, ", or ")));
}

int64_t KvShareBytes(const ModelSizes& sizes, int64_t free_bytes) {
  return sizes.device ? std::max<int64_t>(0, free_bytes - kGraphBytes - kSpareBytes)
                      : KvBudgetBytes(free_bytes);
}

MemoryPlan PlanOf(const ModelSizes& sizes, const MemoryWishes& wishes, int64_t free_bytes,
                  int64_t kv_blocks) {
  MemoryPlan plan;
  plan.device = wishes.device;
  plan.free_bytes = free_bytes;
  plan.weight_bytes = sizes.weight_bytes;
  plan.scratch_bytes = sizes.scratch_bytes;
  plan.kv_bytes = kv_blocks * BlockBytes(sizes.kv);
  plan.kv_blocks = kv_blocks;
  plan.kv_tokens = kv_blocks * sizes.kv.block_tokens;
  if (sizes.device) {
    plan.device_name = sizes.device->name;
    plan.total_bytes = sizes.device->total_bytes;
    plan.workspace_bytes = sizes.device->workspace_bytes;
    plan.free_bytes += plan.workspace_bytes;
    plan.graph_bytes = kGraphBytes;
  }
  return plan;
}

std::string MemoryTable(const MemoryPlan& plan) {
  std::string table = absl::StrCat("Memory of ", plan.device);
  if (!plan.device_name.empty()) absl::StrAppend(&table, ", ", plan.device_name);
  absl::StrAppend(&table, "\n");
  const auto row = [&table](const std::string& what, int64_t bytes) {
    absl::StrAppendFormat(&table, "  %-44s %9.2f GiB %16d bytes\n", what,
                          static_cast<double>(bytes) / kGiB, bytes);
  };
  if (plan.total_bytes > 0) row("in all", plan.total_bytes);
  row("free before", plan.free_bytes);
  row("weights", plan.weight_bytes);
  row(absl::StrCat("KV cache, ", plan.kv_blocks, " blocks, ", plan.kv_tokens, " tokens"),
      plan.kv_bytes);
  row("activations of a step", plan.scratch_bytes);
  if (plan.workspace_bytes > 0) row("work space of the operations", plan.workspace_bytes);
  if (plan.graph_bytes > 0) row("kept for recorded steps", plan.graph_bytes);
  row("left free", plan.LeftBytes());
  return table;
}

void LogMemory(const MemoryPlan& plan) {
  LogInfo("worker", "memory planned",
          {{"labels.device", plan.device},
           {"labels.device_name", plan.device_name},
           {"labels.total_bytes", plan.total_bytes},
           {"labels.free_before_bytes", plan.free_bytes},
           {"labels.weight_bytes", plan.weight_bytes},
           {"labels.kv_cache_bytes", plan.kv_bytes},
           {"labels.kv_blocks", plan.kv_blocks},
           {"labels.kv_tokens", plan.kv_tokens},
           {"labels.scratch_bytes", plan.scratch_bytes},
           {"labels.workspace_bytes", plan.workspace_bytes},
           {"labels.graph_bytes", plan.graph_bytes},
           {"labels.left_free_bytes", plan.LeftBytes()}});
}

}  // namespace fathom::worker
