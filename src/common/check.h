#pragma once

// CHECK for invariants of our own: a broken one means memory or bookkeeping is wrong, so the
// process ends with the place and the failed expression. Never for input from outside.

#include <cstdio>
#include <cstdlib>

namespace fathom {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* expression,
                                     const char* why) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s (%s)\n", file, line, expression, why);
  std::abort();
}

}  // namespace fathom

// FATHOM_CHECK(free == total, "block leaked"): always compiled in; keep it cheap.
#define FATHOM_CHECK(condition, why)                                \
  do {                                                              \
    if (!(condition)) [[unlikely]] {                                \
      ::fathom::CheckFailed(__FILE__, __LINE__, #condition, (why)); \
    }                                                               \
  } while (false)
