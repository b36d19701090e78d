#pragma once

// Masters of one database that cannot work together: what they share but the database is given to
// each by hand, and may differ. Nothing is refused for it, as replacing a secret takes a while in
// which both are about; it is told wherever an operator looks. Pure.

#include <cstdint>
#include <string>
#include <vector>

#include "master/state/master_rows.h"

namespace fathom::master {

enum class ConflictKind : uint8_t {
  kSecret,  // what a client of one shows to go on is nothing to the other
  kId,      // two that live have one name
};

struct MasterConflict {
  ConflictKind kind = ConflictKind::kSecret;
  // Of the other one.
  std::string id;
  std::string incarnation;
};

// Of the masters in `rows` with `self`. Who was killed and has come back under its name is not at
// odds with what it was.
std::vector<MasterConflict> FindConflicts(const MasterIdentity& self,
                                          const std::vector<MasterRow>& rows);

// What is wrong and what to do.
std::string TextOf(const MasterConflict& conflict);

}  // namespace fathom::master
