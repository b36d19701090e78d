#pragma once

// The masters' shared database: a bounded queue of jobs and a few threads, each with a connection
// of its own. Nothing on an I/O thread waits for SQL: jobs are posted, and what comes of them is
// called back on a database thread.
//
// A connection that is lost is made anew, after a pause that grows while the database is away;
// until then jobs fail at once with UNAVAILABLE, so that those who repeat their work anyway just go
// on. What a job that failed so had asked may have been done or not.
//
// Thread safety: Post, Run and up may be called from any thread.
//
// Invariants:
//   1. `done` of a posted job is called exactly once.
//   2. A job never outlasts its limit by much: a connection that waits longer is cut.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/periodic.h"
#include "common/random.h"
#include "master/state/database_url.h"
#include "master/state/sql_session.h"

namespace fathom::master {

struct DatabaseOptions {
  DatabaseUrl url;
  int threads = 2;  // SQLite always has one
  size_t queue_max = 1024;
  absl::Duration connect_limit = absl::Seconds(2);
  absl::Duration retry_first = absl::Milliseconds(100);
  absl::Duration retry_max = absl::Seconds(2);
  // Runs on every new connection before any job. An error other than UNAVAILABLE is what all jobs
  // get until it goes away.
  std::function<absl::Status(SqlSession&)> on_connect;
  const Clock* clock = Clock::Real();
  Random* random = Random::Real();
};

class Database {
 public:
  using Job = std::function<absl::Status(SqlSession&)>;
  using Done = std::function<void(const absl::Status&)>;

  explicit Database(DatabaseOptions options);
  ~Database();  // jobs that wait end with CANCELLED
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // DEADLINE_EXCEEDED when `limit` passes first, RESOURCE_EXHAUSTED (on the caller's thread) when
  // too many wait, else what the job returns.
  void Post(absl::Duration limit, Job job, Done done);
  // Waits for it. Never on a database or I/O thread.
  absl::Status Run(absl::Duration limit, Job job);

  // The last job that needed a connection had one.
  bool up() const { return up_; }
  const DatabaseUrl& url() const { return options_.url; }

 private:
  struct Entry {
    Job job;
    Done done;
    int64_t deadline_ns = 0;
  };
  // One thread's connection.
  struct Lane {
    std::unique_ptr<SqlSession> session;  // the thread's; others only under `mutex`
    std::mutex mutex;
    std::optional<int64_t> cut_at_ns;  // protected by mutex: a job runs until then at most
    int64_t retry_at_ns = 0;
    absl::Duration retry_wait;
    absl::Status last_error;
    std::thread thread;
  };

  void Work(Lane& lane);
  absl::Status Execute(Lane& lane, const Entry& entry);
  absl::Status Connect(Lane& lane);
  void Disconnect(Lane& lane);
  void NoteUp(bool up, const absl::Status& why);
  void CutLate();
  int64_t NowNs() const { return options_.clock->MonotonicNs(); }

  const DatabaseOptions options_;
  BoundedQueue<Entry> queue_;
  std::atomic<bool> up_{false};
  std::mutex news_mutex_;  // of what is logged about up and down
  bool told_ = false;      // protected by news_mutex_
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::optional<Periodic> cutter_;
};

}  // namespace fathom::master
