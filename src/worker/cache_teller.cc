#include "worker/cache_teller.h"

#include <algorithm>

namespace fathom::worker {
namespace {

void AddName(const Hash128& name, google::protobuf::RepeatedPtrField<std::string>* out) {
  out->Add()->assign(reinterpret_cast<const char*>(&name), sizeof(name));
}

}  // namespace

void CacheTeller::Apply(const CacheChanges& changes) {
  for (const Hash128& name : changes.evicted) held_.erase(name);
  held_.insert(changes.stored.begin(), changes.stored.end());
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
    listener->resync.assign(held_.begin(), held_.end());
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
    if (held_.contains(names[i])) AddName(names[i], events->mutable_stored());
  }
  if (end == names.size()) {
    events->set_last_page(true);
    names = {};
  }
  return message;
}

}  // namespace fathom::worker
