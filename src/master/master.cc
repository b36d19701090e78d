#include "master/master.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/files.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/version.h"
#include "master/fleet/link_server.h"
#include "master/identity/cluster_secret.h"
#include "master/serving/serving_metrics.h"
#include "text/text.h"

namespace fathom::master {
namespace {

constexpr size_t kAdminMessageBytes = size_t{1} << 16;
constexpr int kAdminConnections = 64;
constexpr size_t kPasswordBytesMax = 1024;
constexpr absl::Duration kModelWatch = absl::Seconds(1);
constexpr absl::Duration kDrainPoll = absl::Milliseconds(20);
// After every generation was told to end, connections need this long at most to say so.
constexpr absl::Duration kCloseGrace = absl::Seconds(3);

}  // namespace

absl::StatusOr<StartedFleet> StartLinkFleet(const MasterSettings& settings, const Catalog& catalog,
                                            const ClusterState& cluster) {
  LinkServerOptions options;
  options.master_id = settings.id;
  options.bind = settings.bind;
  options.port = settings.link_port;
  options.tls = settings.link_tls;
  options.insecure = settings.insecure_link;
  options.cluster = [&cluster] {
    return ClusterNews{.epoch = cluster.epoch(),
                       .address = cluster.link_address(),
                       .masters = cluster.link_addresses()};
  };
  for (const ModelPtr& model : catalog.models()) {
    options.expected_models.push_back({.name = model->name,
                                       .config_digest = model->config_digest,
                                       .tokenizer_digest = model->tokenizer_digest});
  }
  ASSIGN_OR_RETURN(std::unique_ptr<LinkServer> server, LinkServer::Start(std::move(options)));
  LinkServer* const link = server.get();
  return StartedFleet{.fleet = std::move(server),
                      .port = static_cast<uint16_t>(link->port()),
                      .stop = [link] { link->Stop(); }};
}

absl::StatusOr<std::unique_ptr<Master>> Master::Start(const MasterSettings& settings,
                                                      const FleetFactory& fleet) {
  std::unique_ptr<Master> master(new Master(settings));
  RETURN_IF_ERROR(master->StartAll(fleet));
  return master;
}

Master::~Master() { Stop(); }

absl::Status Master::StartAll(const FleetFactory& fleet) {
  const Clock* const clock = Clock::Real();
  if (settings_.open) {
    keys_ = ApiKeys::Open();
  } else {
    ASSIGN_OR_RETURN(keys_, ApiKeys::FromFile(settings_.keys_file));
  }
  std::vector<ModelPtr> models;
  for (const ModelSettings& model : settings_.models) {
    ASSIGN_OR_RETURN(models.emplace_back(), LoadServedModel(model.path, model.name, clock->Now(),
                                                            {.reasoning = model.reasoning_parser,
                                                             .tools = model.tool_parser},
                                                            model.pool));
  }
  catalog_.emplace(Catalog({.models = models, .whole = false}));
  std::string cluster_secret;
  if (!settings_.cluster_secret_file.empty()) {
    ASSIGN_OR_RETURN(cluster_secret, ReadClusterSecret(settings_.cluster_secret_file));
  }
  io_ = std::make_unique<boost::asio::io_context>(settings_.io_threads);
  RETURN_IF_ERROR(OpenState());
  catalog_keeper_ =
      std::make_unique<CatalogKeeper>(std::move(models), &cluster_->database(), &*catalog_, clock);
  ASSIGN_OR_RETURN(fleet_, fleet(settings_, *catalog_->Now(), *cluster_));
  ports_.link = fleet_.port;
  serving_ = std::make_unique<Serving>(
      ServingOptions{.admission = {.requests = settings_.requests},
                     .cpu_threads = settings_.cpu_threads,
                     .cpu_queue_max = static_cast<size_t>(settings_.requests),
                     .quotas = quotas_.get(),
                     .cluster_secret = std::move(cluster_secret),
                     .migration = settings_.migration},
      fleet_.fleet.get(), &*catalog_, clock, Random::Real());
  fleet_.fleet->OnChange([this](FleetNews news) {
    serving_->OnFleetChange(news);
    if (news == FleetNews::kMembers) UpdateReadiness();
  });
  fleet_.fleet->OnCacheUpdate([this](const WorkerKey& worker, const CacheUpdate& update) {
    serving_->OnCacheUpdate(worker, update);
  });
  fleet_.fleet->OnCondemned([this](const std::string& name, absl::Duration remaining) {
    serving_->OnCondemned(name, remaining);
  });
  fleet_.fleet->OnLastWords(
      [this](const std::vector<LastRun>& runs) { serving_->OnLastWords(runs); });
  work_.emplace(io_->get_executor());
  for (int i = 0; i < settings_.io_threads; ++i) {
    // Short prompts are prepared here, templates and all.
    io_threads_.emplace_back(text::kDeepStackBytes, [this] { io_->run(); });
  }
  RETURN_IF_ERROR(StartListeners());
  JoinCluster();
  model_keeper_ = std::make_unique<ModelKeeper>(
      fleet_.fleet.get(), catalog_keeper_.get(), &*catalog_, [this] { return cluster_->term(); },
      clock);
  model_watch_ = std::make_unique<Periodic>(kModelWatch, [this] { serving_->WatchModels(); });
  RETURN_IF_ERROR(WritePorts());
  LogInfo("master", "listening",
          {{"labels.models", absl::StrJoin(settings_.models, ",",
                                           [](std::string* out, const ModelSettings& model) {
                                             out->append(model.name);
                                           })},
           {"labels.http_port", int64_t{ports_.http.value_or(0)}},
           {"labels.grpc_port", int64_t{ports_.grpc.value_or(0)}},
           {"labels.admin_port", int64_t{ports_.admin.value_or(0)}},
           {"labels.link_port", int64_t{ports_.link}},
           {"labels.metrics_port", int64_t{ports_.metrics.value_or(0)}}});
  return absl::OkStatus();
}

absl::Status Master::OpenState() {
  DatabaseUrl url = settings_.database;
  if (!settings_.database_password_file.empty()) {
    ASSIGN_OR_RETURN(url.password, ReadFile(settings_.database_password_file, kPasswordBytesMax));
    absl::StripTrailingAsciiWhitespace(&url.password);
  }
  ASSIGN_OR_RETURN(cluster_, ClusterState::Open(std::move(url)));
  quotas_ = std::make_unique<Quotas>(
      &cluster_->database(), [this] { return static_cast<int>(cluster_->masters().size()); });
  return absl::OkStatus();
}

void Master::JoinCluster() {
  std::string address = settings_.link_advertise;
  if (address.empty() && !settings_.binds_all) address = HostPort(settings_.bind, ports_.link);
  cluster_->Join({.id = settings_.id,
                  .incarnation = RandomHex(*Random::Real(), 16),
                  .link_address = std::move(address),
                  .build = kVersion,
                  .secret_mark = serving_->secret_mark()},
                 [this] {
                   const auto fleet = fleet_.fleet->Snapshot();
                   return MasterLoad{
                       .queued = static_cast<int64_t>(serving_->queue_length()),
                       .in_flight = serving_->num_active(),
                       .workers = static_cast<int64_t>(fleet->workers.size()),
                       .tokens_total = ServingMetrics::Get().completion_tokens.Value()};
                 });
}

absl::Status Master::StartListeners() {
  const auto backlog = static_cast<size_t>(settings_.client_backlog_bytes);
  if (settings_.http_port) {
    HttpApiOptions options;
    options.loopback_only = settings_.loopback;
    options.openai.bounds = {.choices = settings_.choices, .timeout_max = settings_.request_time};
    options.openai.client_backlog_bytes = backlog;
    options.kserve = {.timeout_max = settings_.request_time, .client_backlog_bytes = backlog};
    http_api_ = std::make_unique<HttpApi>(options, serving_.get(), &*keys_);
    ASSIGN_OR_RETURN(
        http_, HttpServer::Start(*io_, settings_.bind, *settings_.http_port, settings_.http,
                                 *http_api_, *Clock::Real(), [this] { return serving_->NewId(); }));
    ports_.http = http_->port();
  }
  if (settings_.grpc_port) {
    const GrpcInferenceOptions options{
        .bounds = {.choices = settings_.choices, .timeout_max = settings_.request_time},
        .client_backlog_bytes = backlog,
        .threads = settings_.io_threads};
    grpc_inference_ =
        std::make_unique<GrpcInference>(options, *io_, serving_.get(), &*keys_, &grpc_calls_);
    kserve_ = std::make_unique<KserveService>(
        KserveGrpcOptions{.timeout_max = settings_.request_time, .client_backlog_bytes = backlog},
        *io_, serving_.get(), &*keys_, &grpc_calls_);
    ASSIGN_OR_RETURN(
        grpc_, GrpcServer::Start(
                   {.bind = settings_.bind,
                    .port = *settings_.grpc_port,
                    .message_bytes = settings_.http.body_bytes,
                    .connections = settings_.http.connections,
                    .handshake = settings_.http.header,
                    .connection_age = settings_.http.age,
                    .reflection = settings_.grpc_reflection,
                    .health_names = {"fathom.v1.Inference", "inference.GRPCInferenceService"}},
                   {grpc_inference_.get(), kserve_.get()}, grpc_inference_.get()));
    ports_.grpc = grpc_->port();
    {
      const std::lock_guard lock(readiness_mutex_);
      grpc_ready_ = grpc_.get();
    }
    UpdateReadiness();
  }
  if (settings_.admin_port) {
    grpc_admin_ =
        std::make_unique<GrpcAdmin>(serving_.get(), &*keys_, cluster_.get(), catalog_keeper_.get());
    ASSIGN_OR_RETURN(admin_, GrpcServer::Start({.name = "admin",
                                                .bind = settings_.bind,
                                                .port = *settings_.admin_port,
                                                .message_bytes = kAdminMessageBytes,
                                                .connections = kAdminConnections,
                                                .of = DescriptorClass::kPeers,
                                                .handshake = settings_.http.header,
                                                .reflection = settings_.grpc_reflection,
                                                .health_names = {"fathom.v1.Admin"}},
                                               {grpc_admin_.get()}));
    admin_->SetReady(true);
    ports_.admin = admin_->port();
  }
  if (settings_.metrics_port) {
    ASSIGN_OR_RETURN(
        health_, HealthServer::Start(settings_.bind, *settings_.metrics_port,
                                     {.ready = [this] { return serving_->Ready(); },
                                      .before_metrics = [this] { serving_->RefreshMetrics(); }}));
    ports_.metrics = health_->port();
  }
  return absl::OkStatus();
}

absl::Status Master::WritePorts() const {
  if (settings_.ports_file.empty()) return absl::OkStatus();
  std::vector<std::string> members{absl::StrCat("\"link\":", ports_.link)};
  const auto add = [&](const char* name, const std::optional<uint16_t>& port) {
    if (port) members.push_back(absl::StrCat("\"", name, "\":", *port));
  };
  add("http", ports_.http);
  add("grpc", ports_.grpc);
  add("admin", ports_.admin);
  add("metrics", ports_.metrics);
  return WriteFileAtomically(settings_.ports_file,
                             absl::StrCat("{", absl::StrJoin(members, ","), "}\n"));
}

// Any thread: the link calls it while listeners come and go.
void Master::UpdateReadiness() {
  const std::lock_guard lock(readiness_mutex_);
  if (grpc_ready_ == nullptr) return;
  // Heartbeats come often, and watchers of the health service hear every call.
  const bool ready = serving_->Ready().ok();
  if (std::exchange(was_ready_, ready) != ready) grpc_ready_->SetReady(ready);
}

void Master::DrainListeners() {
  if (http_ != nullptr) http_->Drain();
  if (kserve_ != nullptr) kserve_->Drain();
}

bool Master::Drain(absl::Duration grace, const std::function<bool()>& hurry) {
  LogInfo("master", "draining", {{"labels.active", int64_t{serving_->num_active()}}});
  serving_->BeginDrain();
  UpdateReadiness();
  DrainListeners();
  model_keeper_ = nullptr;
  cluster_->Leave();
  const Clock& clock = *Clock::Real();
  const absl::Duration deadline = clock.Monotonic() + grace;
  while (serving_->num_active() > 0) {
    if (clock.Monotonic() >= deadline || hurry()) return false;
    absl::SleepFor(kDrainPoll);
  }
  return true;
}

void Master::Stop() {
  if (serving_ != nullptr) {
    serving_->BeginDrain();
    DrainListeners();
    serving_->CancelAll(absl::UnavailableError("the server is shutting down"));
  }
  health_ = nullptr;
  {
    const std::lock_guard lock(readiness_mutex_);
    grpc_ready_ = nullptr;
  }
  if (grpc_ != nullptr) {
    grpc_calls_.WaitNone(kCloseGrace);
    grpc_->Shutdown();
  }
  admin_ = nullptr;
  if (http_ != nullptr && !http_->WaitClosed(kCloseGrace)) {
    http_->Abort();
    http_->WaitClosed(absl::InfiniteDuration());
  }
  model_watch_ = nullptr;
  model_keeper_ = nullptr;
  if (cluster_ != nullptr) cluster_->Leave();
  if (fleet_.stop) fleet_.stop();
  if (serving_ != nullptr) serving_->Stop();
  work_.reset();
  if (io_ != nullptr) io_->stop();
  for (StackThread& thread : io_threads_) thread.Join();
  io_threads_.clear();
  http_ = nullptr;  // before io_, which its acceptor and timer live in
  io_ = nullptr;    // with whatever still waited in it
}

}  // namespace fathom::master
