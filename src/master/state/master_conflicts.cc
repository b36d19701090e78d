#include "master/state/master_conflicts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace fathom::master {
namespace {

// Masters write every second. One that was killed before this one started has been forgotten by
// then.
constexpr double kWritesSeconds = 3;
constexpr double kPredecessorSeconds = 6;

}  // namespace

std::vector<MasterConflict> FindConflicts(const MasterIdentity& self,
                                          const std::vector<MasterRow>& rows) {
  const auto own = std::find_if(rows.begin(), rows.end(), [&](const MasterRow& row) {
    return row.identity.incarnation == self.incarnation;
  });
  const double up_seconds = own == rows.end() ? 0 : own->up_seconds;
  std::vector<MasterConflict> conflicts;
  for (const MasterRow& row : rows) {
    const MasterIdentity& other = row.identity;
    if (other.incarnation == self.incarnation) continue;
    const bool lives = row.age_seconds < kWritesSeconds;
    if (other.id == self.id && lives && up_seconds > kPredecessorSeconds) {
      conflicts.push_back({ConflictKind::kId, other.id, other.incarnation});
    }
    if (!other.secret_mark.empty() && !self.secret_mark.empty() &&
        other.secret_mark != self.secret_mark) {
      conflicts.push_back({ConflictKind::kSecret, other.id, other.incarnation});
    }
  }
  return conflicts;
}

std::string TextOf(const MasterConflict& conflict) {
  switch (conflict.kind) {
    case ConflictKind::kSecret:
      return absl::StrCat("master '", conflict.id,
                          "' has another cluster secret: clients cannot go on at one what they "
                          "began at the other; give both the same --cluster-secret-file");
    case ConflictKind::kId:
      return absl::StrCat("another master is named '", conflict.id,
                          "' too: give each an --id of its own");
  }
  return "";
}

}  // namespace fathom::master
