#include "master/state/database.h"

#include <algorithm>
#include <condition_variable>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "master/state/state_metrics.h"

namespace fathom::master {
namespace {

constexpr absl::Duration kCutterPeriod = absl::Milliseconds(100);

}  // namespace

Database::Database(DatabaseOptions options)
    : options_(std::move(options)), queue_(options_.queue_max) {
  const int threads =
      options_.url.dialect == SqlDialect::kSqlite ? 1 : std::max(1, options_.threads);
  for (int i = 0; i < threads; ++i) {
    lanes_.push_back(std::make_unique<Lane>());
    lanes_.back()->retry_wait = options_.retry_first;
  }
  for (const auto& lane : lanes_) {
    lane->thread = std::thread([this, lane = lane.get()] { Work(*lane); });
  }
  if (options_.url.dialect == SqlDialect::kPostgresql) {
    cutter_.emplace(kCutterPeriod, [this] { CutLate(); });
  }
}

Database::~Database() {
  queue_.Close();
  for (Entry& entry : queue_.Drain()) {
    entry.done(absl::CancelledError("the master stops"));
  }
  for (const auto& lane : lanes_) lane->thread.join();
}

void Database::Post(absl::Duration limit, Job job, Done done) {
  Entry entry{std::move(job), done, NowNs() + absl::ToInt64Nanoseconds(limit)};
  if (!queue_.TryPush(std::move(entry))) {
    done(absl::ResourceExhaustedError("too much waits for the database"));
  }
}

absl::Status Database::Run(absl::Duration limit, Job job) {
  struct Answer {
    std::mutex mutex;
    std::condition_variable come;
    std::optional<absl::Status> status;
  };
  const auto answer = std::make_shared<Answer>();
  Post(limit, std::move(job), [answer](const absl::Status& status) {
    const std::lock_guard lock(answer->mutex);
    answer->status = status;
    answer->come.notify_all();
  });
  std::unique_lock lock(answer->mutex);
  answer->come.wait(lock, [&] { return answer->status.has_value(); });
  return *answer->status;
}

void Database::Work(Lane& lane) {
  while (std::optional<Entry> entry = queue_.Pop()) {
    const int64_t started_ns = NowNs();
    absl::Status status = started_ns >= entry->deadline_ns
                              ? absl::DeadlineExceededError("the database was too busy")
                              : Execute(lane, *entry);
    if (lane.session != nullptr) {
      StateMetrics::Get().database_seconds.Observe(static_cast<double>(NowNs() - started_ns) *
                                                   1e-9);
    }
    entry->done(status);
  }
  Disconnect(lane);
}

absl::Status Database::Execute(Lane& lane, const Entry& entry) {
  RETURN_IF_ERROR(Connect(lane));
  {
    const std::lock_guard lock(lane.mutex);
    lane.cut_at_ns = entry.deadline_ns;
  }
  absl::Status status = entry.job(*lane.session);
  {
    const std::lock_guard lock(lane.mutex);
    lane.cut_at_ns.reset();
  }
  if (lane.session->broken()) {
    Disconnect(lane);
    NoteUp(false, status);
  }
  if (absl::IsUnavailable(status) && NowNs() >= entry.deadline_ns) {
    return absl::DeadlineExceededError("the database did not answer in time");
  }
  return status;
}

absl::Status Database::Connect(Lane& lane) {
  if (lane.session != nullptr) return absl::OkStatus();
  if (NowNs() < lane.retry_at_ns) return lane.last_error;
  absl::StatusOr<std::unique_ptr<SqlSession>> session =
      SqlSession::Open(options_.url, options_.connect_limit);
  absl::Status status = session.status();
  if (status.ok()) {
    {
      // A server that hangs once it is connected is cut off too.
      const std::lock_guard lock(lane.mutex);
      lane.session = *std::move(session);
      lane.cut_at_ns = NowNs() + 10 * absl::ToInt64Nanoseconds(options_.connect_limit);
    }
    status = lane.session->SetUp();
    if (status.ok() && options_.on_connect) status = options_.on_connect(*lane.session);
    const std::lock_guard lock(lane.mutex);
    lane.cut_at_ns.reset();
    if (!status.ok()) lane.session = nullptr;
  }
  NoteUp(status.ok(), status);
  if (status.ok()) {
    lane.retry_wait = options_.retry_first;
    return status;
  }
  // Full jitter: masters that lost the database together do not come back together.
  lane.retry_at_ns =
      NowNs() + absl::ToInt64Nanoseconds(lane.retry_wait * options_.random->NextUnit());
  lane.retry_wait = std::min(2 * lane.retry_wait, options_.retry_max);
  lane.last_error = status;
  return status;
}

void Database::Disconnect(Lane& lane) {
  const std::lock_guard lock(lane.mutex);
  lane.session = nullptr;
}

void Database::NoteUp(bool up, const absl::Status& why) {
  const std::lock_guard lock(news_mutex_);
  StateMetrics::Get().database_up.Set(up ? 1 : 0);
  const bool same = up_.exchange(up) == up;
  if (std::exchange(told_, true) && same) return;
  if (up) {
    LogInfo("state", "the database is there", {{"labels.database", options_.url.Redacted()}});
  } else {
    LogWarn("state", "the database is away; what is served goes on",
            {{"labels.database", options_.url.Redacted()},
             {"error.message", std::string(Message(why))}});
  }
}

void Database::CutLate() {
  const int64_t now_ns = NowNs();
  for (const auto& lane : lanes_) {
    const std::lock_guard lock(lane->mutex);
    if (lane->cut_at_ns && now_ns >= *lane->cut_at_ns && lane->session != nullptr) {
      lane->session->Interrupt();
      lane->cut_at_ns.reset();
    }
  }
}

}  // namespace fathom::master
