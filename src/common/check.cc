#include "common/check.h"

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace fathom {

void CheckFailed(const char* file, int line, const char* expression, const char* why) {
  const std::string message = absl::StrCat("CHECK failed: ", expression, " (", why, ")");
  LogError("check", message,
           {{"log.origin.file.name", std::string(file)}, {"log.origin.file.line", int64_t{line}}});
  FlushLogs(kFlushInCrash);
  std::abort();
}

}  // namespace fathom
