// The configuration file: a config that was read is written so that it reads back alike.

#include <string>
#include <string_view>

#include "common/check.h"
#include "common/config.h"
#include "fuzz/feedback.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = fathom::ParseConfig({reinterpret_cast<const char*>(data), size});
  fathom::fuzz::CheckSound(0, config.status());
  if (!config.ok()) return 0;
  const std::string dump = fathom::DumpConfig(*config);
  const auto again = fathom::ParseConfig(dump);
  FATHOM_CHECK(again.ok(), "a config that was written cannot be read");
  FATHOM_CHECK(fathom::DumpConfig(*again) == dump, "a config reads back otherwise");
  return 0;
}
