#include "cli/chaos/fault.h"

#include <algorithm>
#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

struct Row {
  const char* name;
  const char* counter;
  bool worker;
  bool master;
  bool database = false;
};

constexpr std::array<Row, std::size(kFaultKinds)> kRows{{
    {"kill", "kills", true, false},
    {"stop", "stops", true, false},
    {"cut", "cuts", true, false},
    {"slow", "slows", true, false},
    {"restart", "restarts", true, false},
    {"master-kill", "master_kills", false, true},
    {"master-stop", "master_stops", false, true},
    {"master-restart", "master_restarts", false, true},
    {"both", "boths", true, true},
    {"rolling", "rollings", true, true},
    {"database-restart", "database_restarts", false, false, true},
    {"database-stop", "database_stops", false, false, true},
}};

const Row& RowOf(FaultKind kind) { return kRows[static_cast<size_t>(kind)]; }

}  // namespace

const char* NameOf(FaultKind kind) { return RowOf(kind).name; }
const char* CounterOf(FaultKind kind) { return RowOf(kind).counter; }
bool HitsWorker(FaultKind kind) { return RowOf(kind).worker; }
bool HitsMaster(FaultKind kind) { return RowOf(kind).master; }
bool HitsDatabase(FaultKind kind) { return RowOf(kind).database; }

absl::StatusOr<std::vector<FaultKind>> ParseFaultKinds(std::string_view text) {
  std::vector<FaultKind> kinds;
  if (text == "none") return kinds;
  for (const absl::string_view name : absl::StrSplit(ToAbsl(text), ',')) {
    const auto* found = std::find_if(std::begin(kFaultKinds), std::end(kFaultKinds),
                                     [&](FaultKind kind) { return name == NameOf(kind); });
    if (found == std::end(kFaultKinds)) {
      return absl::InvalidArgumentError(absl::StrCat("'", name, "' is no kind of fault"));
    }
    kinds.push_back(*found);
  }
  return kinds;
}

}  // namespace fathom::cli
