#pragma once

// The ground truth of a chaos run: a file of JSON Lines, flushed to the disk by a thread of its own
// several times a second, so that the load does not wait for it. A request is written down before
// it is sent and once more when it has ended; a fault before it strikes and when it is over. What a
// run reports is computed from this file alone. Times are milliseconds since the run began.
//
//   {"record":"run", "masters":1, "workers":4, ...}
//   {"record":"begin", "n":7, "client":"ours", "form":"grpc", "question":"greedy-1", "at_ms":12.5}
//   {"record":"end", "n":7, "ended":"ok", ...}
//   {"record":"fault", "f":3, "kind":"kill", "worker":2, "ids":[...], "at_ms":15.0}
//   {"record":"fault", "f":4, "kind":"database-stop", "everyone":true, "ids":[...], "at_ms":16.0}
//   {"record":"healed", "f":3, "at_ms":15.1}

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/chaos/asker.h"
#include "cli/chaos/content.h"
#include "cli/chaos/fault.h"

namespace fathom::cli {

// Thread safe.
class Journal {
 public:
  static constexpr absl::Duration kFlushEvery = absl::Milliseconds(50);
  static constexpr size_t kWaitingBytesMax = size_t{64} << 20;

  // A new file, or an old one emptied.
  static absl::StatusOr<std::unique_ptr<Journal>> Create(const std::string& path);
  // Writes what waits.
  ~Journal();

  // One line; waits only while a great deal waits to be written.
  void Add(std::string line);
  // Returns when all that was added is on the disk, with the first error there was.
  absl::Status Flush();

 private:
  explicit Journal(int fd) : fd_(fd), thread_([this] { Run(); }) {}
  void Run();

  const int fd_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string waiting_;  // protected by mutex_, as is all below
  bool writing_ = false;
  bool stopping_ = false;
  absl::Status status_;
  std::thread thread_;
};

struct RequestBegin {
  int64_t number = 0;
  ClientKind client = ClientKind::kPlain;
  Form form = Form::kStream;
  std::string question;
};
std::string BeginRecord(const RequestBegin& begin, double at_ms);

// `start_ns` is the run's beginning, to which all times are related.
std::string EndRecord(int64_t number, const Asked& asked, const Verdict& verdict, double at_ms,
                      int64_t start_ns);

struct FaultBegin {
  int64_t number = 0;
  FaultKind kind = FaultKind::kKill;
  int worker = -1;  // -1: none
  int master = -1;
  std::string detail;            // which way a link is cut
  std::vector<std::string> ids;  // what runs on that worker, as its masters know it; or anywhere
};
std::string FaultRecord(const FaultBegin& fault, double at_ms);
std::string HealedRecord(int64_t number, double at_ms);

}  // namespace fathom::cli
