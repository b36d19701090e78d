#include "worker/cache_teller.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fathom::worker {
namespace {

void AddName(const Hash128& name, google::protobuf::RepeatedPtrField<std::string>* out) {
  out->Add()->assign(reinterpret_cast<const char*>(&name), sizeof(name));
}

}  // namespace

bool CacheTeller::Holds(const Hash128& name) const {
  return std::any_of(held_.begin(), held_.end(),
                     [&](const auto& entry) { return entry.second.contains(name); });
}

size_t CacheTeller::size() const {
  size_t size = 0;
  for (const auto& [model, names] : held_) size += names.size();
  return size;
}

CacheChanges CacheTeller::Apply(const std::string& model, CacheChanges changes) {
  BlockNameSet& held = held_[model];
  const bool alone = held_.size() == 1;
  for (const Hash128& name : changes.evicted) held.erase(name);
  if (!alone) {
    const auto known = [this](const Hash128& name) { return Holds(name); };
    std::erase_if(changes.evicted, known);
    std::vector<Hash128> stored = std::move(changes.stored);
    changes.stored.clear();
    std::remove_copy_if(stored.begin(), stored.end(), std::back_inserter(changes.stored), known);
    held.insert(stored.begin(), stored.end());
    return changes;
  }
  held.insert(changes.stored.begin(), changes.stored.end());
  return changes;
}

CacheChanges CacheTeller::Forget(const std::string& model) {
  CacheChanges changes;
  const auto it = held_.find(model);
  if (it == held_.end()) return changes;
  const BlockNameSet gone = std::move(it->second);
  held_.erase(it);
  std::copy_if(gone.begin(), gone.end(), std::back_inserter(changes.evicted),
               [this](const Hash128& name) { return !Holds(name); });
  return changes;
}

std::vector<v1::WorkerBulk> CacheTeller::Tell(const CacheChanges& changes, Listener* listener) {
  std::vector<v1::WorkerBulk> messages;
  if (!listener->asked) return messages;
  const size_t most = std::max(changes.stored.size(), changes.evicted.size());
  for (size_t first = 0; first < most; first += kNamesMax) {
    v1::KvEvents* events = messages.emplace_back().mutable_kv_events();
    events->set_sequence(++listener->sequence);
    for (size_t i = first; i < std::min(first + kNamesMax, most); ++i) {
      if (i < changes.stored.size()) AddName(changes.stored[i], events->mutable_stored());
      if (i < changes.evicted.size()) AddName(changes.evicted[i], events->mutable_evicted());
    }
  }
  return messages;
}

std::optional<v1::WorkerBulk> CacheTeller::Page(uint64_t page, Listener* listener) const {
  if (page == 0) {
    listener->asked = true;
    listener->resync.clear();
    for (const auto& [model, names] : held_) {
      listener->resync.insert(listener->resync.end(), names.begin(), names.end());
    }
  } else if (page > listener->resync.size() / kNamesMax) {
    return std::nullopt;
  }
  std::optional<v1::WorkerBulk> message(std::in_place);
  v1::KvEvents* events = message->mutable_kv_events();
  events->set_sequence(++listener->sequence);
  events->set_resync_page(page);
  std::vector<Hash128>& names = listener->resync;
  const size_t first = page * kNamesMax;
  const size_t end = std::min(first + kNamesMax, names.size());
  for (size_t i = first; i < end; ++i) {
    // What has gone since was told already.
    if (Holds(names[i])) AddName(names[i], events->mutable_stored());
  }
  if (end == names.size()) {
    events->set_last_page(true);
    names = {};
  }
  return message;
}

}  // namespace fathom::worker
