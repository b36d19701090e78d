#include "worker/master_link.h"

#include <utility>

#include "common/status_macros.h"

namespace fathom::worker {
namespace {

constexpr int kMessageBytesMax = 64 << 20;
constexpr size_t kControlOutboxBytes = size_t{4} << 20;
constexpr size_t kBulkOutboxBytes = size_t{8} << 20;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const std::shared_ptr<grpc::ChannelCredentials>& creds) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  // When to try again is ours to decide: a new channel knows nothing of an old one's failures.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Masters are dialled by whatever address they have; what they are is in their certificate.
  arguments.SetSslTargetNameOverride(kMasterTlsName);
  return grpc::CreateCustomChannel(address, creds, arguments);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeLinkCredentials(const TlsFiles& tls,
                                                                              bool insecure,
                                                                              absl::Time now) {
  if (tls.empty()) {
    if (insecure) return grpc::InsecureChannelCredentials();
    return absl::InvalidArgumentError(
        "the link to masters has neither TLS (link_tls: ca, certificate, key) nor insecure_link");
  }
  RETURN_IF_ERROR(CheckTlsFiles(tls, kWorkerTlsName, now));
  return LinkChannelCredentials(tls);
}

std::shared_ptr<MasterLink> MasterLink::Dial(const std::string& address,
                                             const std::shared_ptr<grpc::ChannelCredentials>& creds,
                                             const v1::Hello& hello, size_t outbox_bytes,
                                             Events events) {
  auto link = std::shared_ptr<MasterLink>(new MasterLink(outbox_bytes, std::move(events)));
  link->stub_ = v1::Link::NewStub(MakeChannel(address, creds));
  const std::lock_guard lock(link->mutex_);  // it may break before it is made
  // The streams keep the link, and so its stub, until they are done.
  link->control_ = ControlStream::Start(
      [&link](auto* context, auto* reactor) { link->stub_->async()->Control(context, reactor); },
      kControlOutboxBytes,
      {.on_message =
           [link](v1::MasterControl message) { link->events_.on_control(std::move(message)); },
       .on_closed = [link](const absl::Status& status) { link->StreamClosed(status); }});
  v1::WorkerControl first;
  *first.mutable_hello() = hello;
  link->control_->Send(std::move(first));
  return link;
}

void MasterLink::Open(const std::string& session_id) {
  const auto self = shared_from_this();
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  data_ = DataStream::Start(
      [this](auto* context, auto* reactor) { stub_->async()->Data(context, reactor); },
      outbox_bytes_,
      {.on_message = [self](v1::MasterData message) { self->events_.on_data(std::move(message)); },
       .on_closed = [self](const absl::Status& status) { self->StreamClosed(status); }});
  bulk_ = BulkStream::Start(
      [this](auto* context, auto* reactor) { stub_->async()->Bulk(context, reactor); },
      kBulkOutboxBytes,
      {.on_message = [self](v1::MasterBulk message) { self->events_.on_bulk(std::move(message)); },
       .on_closed = [self](const absl::Status& status) { self->StreamClosed(status); }});
  v1::WorkerData data;
  data.set_session_id(session_id);
  data_->Send(std::move(data));
  v1::WorkerBulk bulk;
  bulk.set_session_id(session_id);
  bulk_->Send(std::move(bulk));
}

bool MasterLink::Send(v1::WorkerControl message) { return control()->Send(std::move(message)); }

void MasterLink::ReadControl() { control()->ReadNext(); }

bool MasterLink::Send(v1::WorkerData message) {
  const auto stream = data();
  return stream != nullptr && stream->Send(std::move(message));
}

void MasterLink::ReadData() {
  if (const auto stream = data()) stream->ReadNext();
}

bool MasterLink::Send(v1::WorkerBulk message) {
  const auto stream = bulk();
  return stream != nullptr && stream->Send(std::move(message));
}

void MasterLink::ReadBulk() {
  if (const auto stream = bulk()) stream->ReadNext();
}

void MasterLink::Finish() {
  if (const auto stream = data()) {
    stream->Finish();
  } else {
    Cut(absl::CancelledError("the worker stops"));
  }
}

void MasterLink::Cut(const absl::Status& reason) {
  std::shared_ptr<ControlStream> control;
  std::shared_ptr<DataStream> data;
  std::shared_ptr<BulkStream> bulk;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
    control = control_;
    data = data_;
    bulk = bulk_;
  }
  control->Cancel();
  if (data != nullptr) data->Cancel();
  if (bulk != nullptr) bulk->Cancel();
  events_.on_closed(reason);
}

void MasterLink::StreamClosed(const absl::Status& status) {
  Cut(status.ok() ? absl::UnavailableError("the master ended the link") : status);
}

std::shared_ptr<MasterLink::ControlStream> MasterLink::control() const {
  const std::lock_guard lock(mutex_);
  return control_;
}

std::shared_ptr<MasterLink::DataStream> MasterLink::data() const {
  const std::lock_guard lock(mutex_);
  return data_;
}

std::shared_ptr<MasterLink::BulkStream> MasterLink::bulk() const {
  const std::lock_guard lock(mutex_);
  return bulk_;
}

}  // namespace fathom::worker
