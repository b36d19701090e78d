#pragma once

// The master's end of the link: takes workers in, watches over their lives, carries submissions
// down and tokens up. It is the Fleet that serving works with.
//
// Thread safety: every method may be called from any thread; Stop once, by the owner.
//
// Invariants:
//   1. A worker id has at most one live session; a second one is refused until the first is dead.
//   2. A listener hears OnWorkerLost at most once, and nothing after it.
//   3. A listener's tokens have neither gap nor repeat: what repeats is cut, a gap counts as a
//   loss.
//   4. No call blocks on a peer: each worker's outbox is bounded in bytes, and a full one is
//   refused.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/random.h"
#include "common/tls/link_credentials.h"
#include "master/fleet/fleet.h"

namespace fathom::master {

// "host:port", with brackets around an IPv6 address.
std::string HostPort(const std::string& host, int port);

// A model this master serves; workers whose loaded model of that name has other digests are
// refused.
struct ExpectedModel {
  std::string name;
  std::string config_digest;     // SHA-256 in hex
  std::string tokenizer_digest;  // SHA-256 in hex
};

// What workers hear of all masters.
struct ClusterNews {
  uint64_t epoch = 0;                // of the newest leader; orders carry it
  std::string address;               // host:port of this master's link; empty: not told
  std::vector<std::string> masters;  // of every master's, sorted; empty: not told
};

struct LinkServerOptions {
  std::string master_id = "master";
  std::string bind = "127.0.0.1";
  int port = 0;                          // 0: any free one, see LinkServer::port
  TlsFiles tls;                          // ours; workers show a certificate of the same CA
  bool insecure = false;                 // without TLS: whoever reaches the port may be a worker
  std::function<ClusterNews()> cluster;  // any thread, from memory; empty: a master alone
  std::vector<ExpectedModel> expected_models;
  size_t outbox_bytes = size_t{64} << 20;  // per worker
  absl::Duration heartbeat = absl::Milliseconds(250);
  absl::Duration silence_floor = absl::Seconds(1);  // shorter silences are never a death
  const Clock* clock = Clock::Real();
  Random* random = Random::Real();
};

class LinkServer final : public Fleet {
 public:
  // INVALID_ARGUMENT for files that TLS cannot use, or without both them and `insecure`;
  // UNAVAILABLE when the port is taken.
  static absl::StatusOr<std::unique_ptr<LinkServer>> Start(LinkServerOptions options);
  ~LinkServer() override;  // stops
  LinkServer(const LinkServer&) = delete;
  LinkServer& operator=(const LinkServer&) = delete;

  int port() const;

  // Ends every session (listeners hear OnWorkerLost) and waits until no callback runs any more.
  void Stop();

  std::shared_ptr<const FleetSnapshot> Snapshot() const override;
  void OnChange(std::function<void(FleetNews)> callback) override;
  void OnCacheUpdate(std::function<void(const WorkerKey&, const CacheUpdate&)> callback) override;
  absl::Status Submit(const WorkerKey& worker, Submission submission,
                      std::shared_ptr<SubmissionListener> listener) override;
  void Cancel(const WorkerKey& worker, const std::string& request_id, uint32_t attempt,
              std::vector<int32_t> choices) override;
  void Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
             std::function<void(ClaimOutcome)> done) override;
  absl::Status Drain(const std::string& worker_id) override;
  absl::Status Load(const WorkerKey& worker, const LoadOrder& order, uint64_t epoch) override;
  absl::Status Unload(const WorkerKey& worker, const std::string& model, uint64_t epoch) override;
  void Condemn(const std::string& name, absl::Duration remaining) override;
  void OnCondemned(
      std::function<void(const std::string& name, absl::Duration remaining)> callback) override;
  void OnLastWords(std::function<void(const std::vector<LastRun>&)> callback) override;
  void ReportBacklog(const std::string& model, int64_t cost) override;

 private:
  struct Impl;
  explicit LinkServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::master
