#pragma once

// The tables of the masters' shared state, and how older ones become today's. Masters of two
// releases share one database during a rolling upgrade and after a rollback, so changes go in two
// steps: a release *expands* (adds what it needs, in a form that older masters can pass over), and
// only a later one *contracts* (takes away what no master in service reads). Each migration says
// the oldest schema number that a master may know and still work with it.
//
// A migration that was released is never changed; a new one is added behind it.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "master/state/sql_session.h"

namespace fathom::master {

struct Migration {
  int version = 0;     // counts up by one
  int min_reader = 0;  // masters whose newest migration is older must not use the result
  std::string description;
  std::vector<std::string> statements;
};

const std::vector<Migration>& SchemaMigrations();

// Brings the schema to the newest of `migrations`, under a lock, so that of several masters one
// does it and the others find it done. All of it or nothing. FAILED_PRECONDITION when the schema is
// of a newer release that says that this one cannot read it.
absl::Status Migrate(SqlSession& session, const std::vector<Migration>& migrations);

}  // namespace fathom::master
