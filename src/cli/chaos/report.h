#pragma once

// What a chaos run shows: a table for people, JSON for programs, and whether what is promised was
// kept. Pure.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/chaos/tally.h"

namespace fathom::cli {

// What the run itself checked, beside the answers.
struct ClusterChecks {
  int64_t conservation_checks = 0;
  std::string conservation_broken;  // the first time it was; empty: never
  int64_t histories = 0;            // of generations that met a fault
  std::string history_broken;
  int64_t migrations = 0;          // as masters that were not restarted count them
  int64_t untaken = 0;             // likewise, attempts that a worker did not take on in time
  int64_t crashes = 0;             // processes that ended though nobody touched them
  std::optional<int64_t> leaders;  // masters that lead in the end; of those that share a database
};

struct ChaosResult {
  RunTally tally;
  ClusterChecks checks;
  std::string setup_json;  // an object
};

// Every way in which a promise was broken. Clients that resume are promised everything. A plain one
// is promised right answers always, and that nothing is lost as long as no master is disturbed: its
// connection dies with its master.
std::vector<std::string> BrokenPromises(const ChaosResult& result);

std::string ChaosTable(const ChaosResult& result);
std::string ChaosJson(const ChaosResult& result);

}  // namespace fathom::cli
