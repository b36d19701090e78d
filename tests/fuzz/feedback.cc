#include "fuzz/feedback.h"

#include "common/check.h"
#include "common/strings.h"

namespace fathom::fuzz {
namespace {

constexpr size_t kCounters = 8192;
constexpr size_t kMessageBytesMax = size_t{1} << 20;

// libFuzzer finds it by its section and clears it before each input.
__attribute__((section("__libfuzzer_extra_counters"))) uint8_t g_counters[kCounters];

}  // namespace

void Reached(uint64_t feature) {
  feature *= 0x9E3779B97F4A7C15;
  g_counters[(feature >> 40) % kCounters] = 1;
}

void Reached(uint64_t place, const absl::Status& status) {
  uint64_t hash = place * 31 + static_cast<uint64_t>(status.code());
  bool quoted = false;
  for (const char c : Message(status)) {
    if (c == '"' || c == '\'' || c == '`') quoted = !quoted;
    if (!quoted && (c < '0' || c > '9')) hash = hash * 31 + static_cast<unsigned char>(c);
  }
  Reached(hash);
}

void CheckSound(uint64_t place, const absl::Status& status) {
  Reached(place, status);
  if (status.ok()) return;
  FATHOM_CHECK(!status.message().empty(), "an error without words");
  FATHOM_CHECK(status.message().size() < kMessageBytesMax, "an error as long as a book");
}

}  // namespace fathom::fuzz
