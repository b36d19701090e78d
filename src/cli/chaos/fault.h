#pragma once

// The kinds of disturbance, and by which names users ask for them. Pure.

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::cli {

enum class FaultKind {
  kKill,             // SIGKILL of a worker
  kStop,             // SIGSTOP of a worker for some seconds
  kCut,              // a worker's link carries nothing for some seconds, one way or both
  kSlow,             // a worker runs a third of the time for some seconds
  kRestart,          // SIGTERM of a worker
  kMasterKill,       // SIGKILL of a master
  kMasterStop,       // SIGSTOP of a master for some seconds
  kMasterRestart,    // SIGTERM of a master
  kBoth,             // SIGKILL of a worker and a master at once
  kRolling,          // SIGTERM of every worker and every master, one after the other
  kDatabaseRestart,  // SIGKILL of the masters' database, which is away for some seconds
  kDatabaseStop,     // SIGSTOP of it for some seconds: what is asked hangs
};
inline constexpr FaultKind kFaultKinds[] = {FaultKind::kKill,
                                            FaultKind::kStop,
                                            FaultKind::kCut,
                                            FaultKind::kSlow,
                                            FaultKind::kRestart,
                                            FaultKind::kMasterKill,
                                            FaultKind::kMasterStop,
                                            FaultKind::kMasterRestart,
                                            FaultKind::kBoth,
                                            FaultKind::kRolling,
                                            FaultKind::kDatabaseRestart,
                                            FaultKind::kDatabaseStop};

const char* NameOf(FaultKind kind);     // as a flag has it: "master-kill"
const char* CounterOf(FaultKind kind);  // as a report counts it: "master_kills"
bool HitsWorker(FaultKind kind);
bool HitsMaster(FaultKind kind);
// Every request that runs at the time meets it.
bool HitsDatabase(FaultKind kind);

// "kill,kill,stop": any of them, also more than once; "none": no fault at all.
absl::StatusOr<std::vector<FaultKind>> ParseFaultKinds(std::string_view text);

}  // namespace fathom::cli
