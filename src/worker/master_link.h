#pragma once

// One connection to one master: a channel and its three streams. It lives until any of the streams
// ends; a new connection is a new MasterLink.
//
// Thread safety: every method may be called from any thread. Events run on gRPC's threads and must
// only post; on_closed comes once. Its owner, one thread, holds the link until IsLast: the channel
// must not end on a thread of gRPC's.

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/tls/link_credentials.h"
#include "fathom/v1/link.grpc.pb.h"
#include "fathom/v1/link.pb.h"
#include "worker/client_stream.h"

namespace fathom::worker {

// The one place where the link's client credentials are made. INVALID_ARGUMENT for files that TLS
// cannot use, or without both them and `insecure`.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeLinkCredentials(const TlsFiles& tls,
                                                                              bool insecure,
                                                                              absl::Time now);

class MasterLink : public std::enable_shared_from_this<MasterLink> {
 public:
  struct Events {
    std::function<void(v1::MasterControl)> on_control;
    std::function<void(v1::MasterData)> on_data;
    std::function<void(v1::MasterBulk)> on_bulk;
    std::function<void(absl::Status)> on_closed;
  };

  // Dials and says Hello; never waits.
  static std::shared_ptr<MasterLink> Dial(const std::string& address,
                                          const std::shared_ptr<grpc::ChannelCredentials>& creds,
                                          const v1::Hello& hello, size_t outbox_bytes,
                                          Events events);

  // After Welcome: opens the data and the bulk stream of the session.
  void Open(const std::string& session_id);

  // False when the link is broken or the stream's outbox is full.
  bool Send(v1::WorkerControl message);
  bool Send(v1::WorkerData message);
  bool Send(v1::WorkerBulk message);

  // The message handed over last has been dealt with.
  void ReadControl();
  void ReadData();
  void ReadBulk();

  // Writes what has been sent, then ends the data stream; the master ends the rest.
  void Finish();
  void Cut(const absl::Status& reason);

  // Nobody but the caller holds the link: no event comes any more, and to drop it ends its channel
  // here and now. The link keeps its streams and so all that keeps the channel (the stub and the
  // streams' contexts); gRPC's threads hold a stream only while they hold the link.
  static bool IsLast(const std::shared_ptr<MasterLink>& link) { return link.use_count() == 1; }

 private:
  using ControlStream = ClientStream<v1::MasterControl, v1::WorkerControl>;
  using DataStream = ClientStream<v1::MasterData, v1::WorkerData>;
  using BulkStream = ClientStream<v1::MasterBulk, v1::WorkerBulk>;

  MasterLink(size_t outbox_bytes, Events events)
      : outbox_bytes_(outbox_bytes), events_(std::move(events)) {}

  void StreamClosed(const absl::Status& status);
  std::shared_ptr<ControlStream> control() const;
  std::shared_ptr<DataStream> data() const;
  std::shared_ptr<BulkStream> bulk() const;

  const size_t outbox_bytes_;
  const Events events_;
  std::unique_ptr<v1::Link::Stub> stub_;

  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  std::shared_ptr<ControlStream> control_;
  std::shared_ptr<DataStream> data_;
  std::shared_ptr<BulkStream> bulk_;
  bool closed_ = false;
};

}  // namespace fathom::worker
