#pragma once

// Generated workloads. A session is a chain of steps over a growing context; a step sends one or
// more requests at once, all of which begin with the context, and the next step comes some time
// after the last of them has ended. Contents are named, not stored: equal names are equal tokens.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/domain.h"

namespace fathom::router_sim {

struct Segment {
  uint64_t content = 0;
  int32_t tokens = 0;
};

struct Branch {
  std::vector<Segment> extra;  // after the context
  Segment output;
};

struct Step {
  double wait_s = 0;  // since the step before has ended: a reader thinks, a tool works
  std::vector<Branch> branches;
  std::vector<Segment> carry;  // joins the context afterwards
};

struct Session {
  double start_s = 0;
  std::vector<Segment> context;
  std::vector<Step> steps;
};

struct Trace {
  std::vector<Session> sessions;  // by start
};

// "chat", "rag" or "agent"; sessions start at random within `duration_s`, `sessions_per_s` in the
// mean. INVALID_ARGUMENT for other names.
absl::StatusOr<Trace> MakeTrace(std::string_view name, double sessions_per_s, double duration_s,
                                uint64_t seed);

// The same for the same content and position.
TokenId TokenOf(uint64_t content, int32_t position);

// Appends the segment's tokens.
void AppendTokens(const Segment& segment, std::vector<TokenId>* tokens);

}  // namespace fathom::router_sim
