#include "worker/model/kv_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

constexpr size_t kGroupAlignment = 4096;
constexpr int32_t kNoBlock = -1;
// Table entries that travel at once.
constexpr size_t kUpdatesMax = 4096;

}  // namespace

KvCache::KvCache(kernels::Backend* backend, KvSpec spec, int32_t num_kv_heads, int32_t head_dim)
    : backend_(backend), spec_(std::move(spec)), num_kv_heads_(num_kv_heads), head_dim_(head_dim) {
  for (size_t group = 0; group < spec_.groups.size(); ++group) {
    int64_t index = 0;
    for (const int32_t layer : spec_.groups[group].layers) {
      if (places_.size() <= static_cast<size_t>(layer)) places_.resize(layer + 1);
      places_[layer] = {group, index++};
    }
  }
}

absl::Status KvCache::Allocate(const KvPlan& plan) {
  if (allocated()) return absl::FailedPreconditionError("KV cache: allocated already");
  if (plan.num_blocks.size() != spec_.groups.size() || plan.max_sequences <= 0 ||
      plan.max_blocks_per_sequence <= 0) {
    return absl::InvalidArgumentError("KV cache: the plan does not fit the model's groups");
  }
  size_t bytes = 0;
  for (size_t group = 0; group < spec_.groups.size(); ++group) {
    if (plan.num_blocks[group] <= 0) return absl::InvalidArgumentError("KV cache: no blocks");
    arena_offsets_.push_back(bytes);
    bytes += static_cast<size_t>(spec_.BytesPerBlock(group)) * plan.num_blocks[group];
    bytes = (bytes + kGroupAlignment - 1) / kGroupAlignment * kGroupAlignment;
  }
  ASSIGN_OR_RETURN(arena_, backend_->Allocate(bytes));
  const size_t entries = static_cast<size_t>(plan.max_sequences) * plan.max_blocks_per_sequence;
  for (size_t group = 0; group < spec_.groups.size(); ++group) {
    host_tables_.emplace_back(entries, kNoBlock);
    ASSIGN_OR_RETURN(kernels::DeviceBuffer table, backend_->Allocate(entries * sizeof(BlockId)));
    RETURN_IF_ERROR(
        backend_->CopyFromHost(table.data(), host_tables_[group].data(), table.bytes()));
    tables_.push_back(std::move(table));
  }
  ASSIGN_OR_RETURN(updates_, backend_->Allocate(2 * kUpdatesMax * sizeof(int32_t)));
  // A step copies at most one tail a sequence and group.
  const size_t copy_bytes = static_cast<size_t>(plan.max_sequences) * sizeof(BlockId);
  ASSIGN_OR_RETURN(copy_sources_, backend_->Allocate(copy_bytes));
  ASSIGN_OR_RETURN(copy_destinations_, backend_->Allocate(copy_bytes));
  plan_ = plan;
  return absl::OkStatus();
}

absl::Status KvCache::CheckUpdates(const ForwardInput& input) const {
  const auto num_ids = static_cast<int64_t>(input.block_ids.size());
  const auto num_groups = static_cast<int32_t>(spec_.groups.size());
  for (const BlockTableUpdate& update : input.table_updates) {
    if (update.group < 0 || update.group >= num_groups || update.slot < 0 ||
        update.slot >= plan_.max_sequences || update.first_index < 0 || update.num_blocks < 0 ||
        update.num_blocks > plan_.max_blocks_per_sequence - update.first_index ||
        update.first_block < 0 || update.first_block > num_ids - update.num_blocks) {
      return absl::InvalidArgumentError(absl::StrCat(
          "table update outside the tables: slot ", update.slot, ", group ", update.group,
          ", first index ", update.first_index, ", ", update.num_blocks, " blocks"));
    }
    for (int32_t i = 0; i < update.num_blocks; ++i) {
      const BlockId id = input.block_ids[update.first_block + i];
      if (id < kNoBlock || id >= plan_.num_blocks[update.group]) {
        return absl::InvalidArgumentError(
            absl::StrCat("table update names block ", id, " of ", plan_.num_blocks[update.group]));
      }
    }
  }
  for (const BlockCopy& copy : input.copies) {
    if (copy.group < 0 || copy.group >= num_groups || copy.source < 0 || copy.destination < 0 ||
        copy.source >= plan_.num_blocks[copy.group] ||
        copy.destination >= plan_.num_blocks[copy.group]) {
      return absl::InvalidArgumentError(absl::StrCat("copy of block ", copy.source, " to ",
                                                     copy.destination, " in group ", copy.group));
    }
  }
  return absl::OkStatus();
}

absl::Status KvCache::CopyBlocksOf(int32_t group, const ForwardInput& input) {
  std::vector<BlockId> sources;
  std::vector<BlockId> destinations;
  const auto flush = [&]() -> absl::Status {
    const size_t bytes = sources.size() * sizeof(BlockId);
    if (bytes == 0) return absl::OkStatus();
    RETURN_IF_ERROR(backend_->CopyFromHost(copy_sources_.data(), sources.data(), bytes));
    RETURN_IF_ERROR(backend_->CopyFromHost(copy_destinations_.data(), destinations.data(), bytes));
    kernels::CopyBlocksArgs args;
    args.arena = ArenaOf(group);
    args.sources = copy_sources_.as<BlockId>();
    args.destinations = copy_destinations_.as<BlockId>();
    args.block_bytes = spec_.BytesPerBlock(group);
    args.count = static_cast<int32_t>(sources.size());
    sources.clear();
    destinations.clear();
    return backend_->CopyBlocks(args);
  };
  for (const BlockCopy& copy : input.copies) {
    if (copy.group != group) continue;
    sources.push_back(copy.source);
    destinations.push_back(copy.destination);
    if (sources.size() == static_cast<size_t>(plan_.max_sequences)) RETURN_IF_ERROR(flush());
  }
  return flush();
}

absl::Status KvCache::UpdateTable(size_t group, const ForwardInput& input) {
  // Entries that change, each once: a later update of one and the same step wins.
  std::vector<int32_t> changed;
  for (const BlockTableUpdate& update : input.table_updates) {
    if (static_cast<size_t>(update.group) != group) continue;
    const size_t at = TableIndex(update.slot, update.first_index);
    for (int32_t i = 0; i < update.num_blocks; ++i) {
      host_tables_[group][at + i] = input.block_ids[update.first_block + i];
      changed.push_back(static_cast<int32_t>(at) + i);
    }
  }
  std::ranges::sort(changed);
  changed.erase(std::unique(changed.begin(), changed.end()), changed.end());
  for (size_t begin = 0; begin < changed.size(); begin += kUpdatesMax) {
    const size_t count = std::min(kUpdatesMax, changed.size() - begin);
    std::vector<int32_t> packed(changed.begin() + static_cast<std::ptrdiff_t>(begin),
                                changed.begin() + static_cast<std::ptrdiff_t>(begin + count));
    for (size_t i = 0; i < count; ++i) packed.push_back(host_tables_[group][packed[i]]);
    RETURN_IF_ERROR(
        backend_->CopyFromHost(updates_.data(), packed.data(), packed.size() * sizeof(int32_t)));
    RETURN_IF_ERROR(
        backend_->Scatter({tables_[group].as<BlockId>(), updates_.as<int32_t>(),
                           updates_.as<int32_t>() + count, static_cast<int32_t>(count)}));
  }
  return absl::OkStatus();
}

absl::Status KvCache::Apply(const ForwardInput& input) {
  RETURN_IF_ERROR(CheckUpdates(input));
  for (size_t group = 0; group < spec_.groups.size() && !input.table_updates.empty(); ++group) {
    RETURN_IF_ERROR(UpdateTable(group, input));
  }
  if (input.copies.empty()) return absl::OkStatus();
  for (size_t group = 0; group < spec_.groups.size(); ++group) {
    RETURN_IF_ERROR(CopyBlocksOf(static_cast<int32_t>(group), input));
  }
  return absl::OkStatus();
}

absl::Status KvCache::CheckCovered(const SequenceInput& sequence) const {
  const int64_t end = int64_t{sequence.context_len} + sequence.query_len;
  if (end > int64_t{plan_.max_blocks_per_sequence} * spec_.block_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("slot ", sequence.slot, ": ", end, " tokens do not fit its block table"));
  }
  for (size_t group = 0; group < spec_.groups.size(); ++group) {
    const int32_t window = spec_.groups[group].window_tokens;
    const int32_t first = window > 0 ? std::max(sequence.context_len - window + 1, 0) : 0;
    for (int64_t i = first / spec_.block_tokens; i * spec_.block_tokens < end; ++i) {
      if (host_tables_[group][TableIndex(sequence.slot, static_cast<int32_t>(i))] == kNoBlock) {
        return absl::InvalidArgumentError(absl::StrCat("slot ", sequence.slot, ", group ", group,
                                                       ": no block for position ",
                                                       i * spec_.block_tokens));
      }
    }
  }
  return absl::OkStatus();
}

kernels::KvCacheView KvCache::View(int32_t layer) const {
  const Place& place = places_[layer];
  const int64_t plane_bytes = int64_t{num_kv_heads_} * spec_.block_tokens * head_dim_ *
                              static_cast<int64_t>(SizeOf(spec_.dtype));
  kernels::KvCacheView view;
  view.arena = ArenaOf(place.group);
  view.block_tables = tables_[place.group].as<BlockId>();
  view.block_bytes = spec_.BytesPerBlock(place.group);
  view.layer_offset = place.index_in_group * 2 * plane_bytes;
  view.value_offset = view.layer_offset + plane_bytes;
  view.max_blocks = plan_.max_blocks_per_sequence;
  view.block_tokens = spec_.block_tokens;
  view.num_kv_heads = num_kv_heads_;
  view.head_dim = head_dim_;
  return view;
}

int32_t KvCache::WindowOf(int32_t layer) const {
  return spec_.groups[places_[layer].group].window_tokens;
}

}  // namespace fathom::worker
