#pragma once

// CHECK for invariants of our own: a broken one means memory or bookkeeping is wrong, so the
// process ends with the place and the failed expression in its log. Never for input from outside.

namespace fathom {

// What was logged before it is still written, unless whoever reads the log stands still.
[[noreturn]] void CheckFailed(const char* file, int line, const char* expression, const char* why);

}  // namespace fathom

// FATHOM_CHECK(free == total, "block leaked"): always compiled in; keep it cheap.
#define FATHOM_CHECK(condition, why)                                \
  do {                                                              \
    if (!(condition)) [[unlikely]] {                                \
      ::fathom::CheckFailed(__FILE__, __LINE__, #condition, (why)); \
    }                                                               \
  } while (false)
