#pragma once

// Asks a server every example and grades the answers.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/eval/examples.h"
#include "cli/server.h"
#include "common/clock.h"
#include "common/shutdown.h"

namespace fathom::cli {

struct TaskScore {
  int count = 0;
  int correct = 0;
  int errors = 0;  // requests that failed; they count as wrong

  double exact_match() const { return count == 0 ? 0 : static_cast<double>(correct) / count; }
};

struct Miss {
  std::string id;
  std::string expected;
  std::string answer;
  std::string error;  // why there is no answer
};

struct Grades {
  std::string model;
  std::map<std::string, TaskScore> tasks;
  std::vector<Miss> misses;  // the first kMissesMax, in the data's order
  absl::Status first_error;  // of a request
  int64_t completion_tokens = 0;
  absl::Duration took;
  bool interrupted = false;  // not all were asked

  TaskScore total() const;
  // Mean of the tasks' exact matches.
  double exact_match() const;
};

struct GradeProgress {
  size_t done = 0;
  size_t of = 0;
  size_t correct = 0;
};

inline constexpr size_t kMissesMax = 100;

// Asks with temperature 0 and raw output, `concurrency` at a time, each on a connection of its own.
// `on_progress` is called on the caller's thread now and then. Stops early when `shutdown` is asked
// for: what runs is cancelled and not counted.
absl::StatusOr<Grades> Grade(const Server& server, const std::vector<Example>& examples,
                             int concurrency, const Clock& clock, ShutdownSignal& shutdown,
                             const std::function<void(const GradeProgress&)>& on_progress);

}  // namespace fathom::cli
