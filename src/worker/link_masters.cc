// The part of LinkClient that knows which masters there are.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/link_client.h"

namespace fathom::worker {
namespace {

constexpr size_t kMastersMax = 64;

absl::Status CheckAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  const bool good = address.size() <= 300 && colon != std::string::npos && colon > 0 &&
                    colon + 1 < address.size() &&
                    std::all_of(address.begin() + colon + 1, address.end(),
                                [](char c) { return c >= '0' && c <= '9'; });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'", address.substr(0, 300), "' is not host:port"));
}

}  // namespace

absl::Status LinkClient::AddPeer(const std::string& address) {
  RETURN_IF_ERROR(CheckAddress(address));
  for (const Peer& peer : peers_) {
    if (peer.address == address) return absl::OkStatus();
  }
  if (peers_.size() >= kMastersMax) return absl::ResourceExhaustedError("too many masters");
  peers_.push_back(
      {.address = address,
       .backoff = Backoff(options_.redial_first, options_.redial_max, options_.random)});
  return absl::OkStatus();
}

void LinkClient::Learn(Peer& peer, const std::string& address,
                       const google::protobuf::RepeatedPtrField<std::string>& masters) {
  if (masters.empty()) return;
  book_.Learn({masters.begin(), masters.end()});
  std::vector<std::string> wanted(masters.begin(), masters.end());
  std::string alias;
  if (address != peer.address && CheckAddress(address).ok()) {
    // The link is the master's, whatever name it was reached by; the name goes on without it.
    alias = std::exchange(peer.address, address);
    book_.IsAlias(alias);
    wanted.push_back(alias);
  }
  for (const std::string& master : wanted) {
    const absl::Status added = AddPeer(master);
    if (!added.ok()) {
      LogWarn("link", "not dialling a master",
              {{"server.address", master.substr(0, 300)},
               {"error.message", std::string(added.message())}});
    }
  }
  // The others' own addresses first.
  const int64_t later_ns =
      options_.clock->MonotonicNs() + absl::ToInt64Nanoseconds(options_.redial_max);
  for (Peer& other : peers_) {
    if (other.address == alias && other.link == nullptr) other.dial_at_ns = later_ns;
  }
}

bool LinkClient::IsWanted(const Peer& peer) const {
  return book_.Wants(peer.address, [this](const std::string& address) {
    return std::any_of(peers_.begin(), peers_.end(), [&](const Peer& other) {
      return other.welcomed && other.address == address;
    });
  });
}

// Masters come and go under new addresses, and what is dialled is bounded.
void LinkClient::ForgetMasters() {
  for (auto it = peers_.begin(); it != peers_.end();) {
    const bool twice = std::any_of(peers_.begin(), peers_.end(), [&](const Peer& other) {
      return &other != &*it && other.address == it->address;
    });
    const bool useless = it->link == nullptr && (twice || !book_.Knows(it->address));
    it = useless ? peers_.erase(it) : std::next(it);
  }
}

}  // namespace fathom::worker
