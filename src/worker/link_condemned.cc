// The part of LinkClient that carries from master to master what must not run again for a while,
// and that tells all of them what ran when the worker crashed. What either means is none of a
// worker's business.

#include <algorithm>
#include <utility>

#include "worker/link_client.h"

namespace fathom::worker {
namespace {

constexpr size_t kNameBytes = 32;
constexpr int64_t kRemainingMsMax = 600'000;
constexpr int kLastWordsMax = 1024;
constexpr int64_t kNsPerMs = 1'000'000;

v1::WorkerControl ToMessage(const std::string& name, int64_t remaining_ms) {
  v1::WorkerControl message;
  message.mutable_condemned()->set_fingerprint(name);
  message.mutable_condemned()->set_remaining_ms(remaining_ms);
  return message;
}

}  // namespace

void LinkClient::OnCondemned(Peer& peer, const v1::Condemned& condemned) {
  const std::string& name = condemned.fingerprint();
  if (name.size() != kNameBytes || condemned.remaining_ms() <= 0) {
    return Lose(peer, absl::InvalidArgumentError("a condemned request has no name or no time"));
  }
  const int64_t now_ns = options_.clock->MonotonicNs();
  const int64_t remaining_ms = std::min(condemned.remaining_ms(), kRemainingMsMax);
  if (!condemned_.Add(name, now_ns + remaining_ms * kNsPerMs, now_ns)) return;
  for (Peer& other : peers_) {
    if (&other != &peer && other.welcomed) other.link->Send(ToMessage(name, remaining_ms));
  }
}

void LinkClient::TellCondemned(Peer& peer) {
  for (const auto& [name, left_ns] : condemned_.All(options_.clock->MonotonicNs())) {
    peer.link->Send(ToMessage(name, left_ns / kNsPerMs + 1));
  }
}

// None, too, is worth saying: what is under way has not met the crash then.
v1::WorkerControl LinkClient::LastWords() const {
  v1::WorkerControl message;
  *message.mutable_last_words() = requests_.LastWords(kLastWordsMax);
  return message;
}

}  // namespace fathom::worker
