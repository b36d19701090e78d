#include "common/random.h"

#include <sys/random.h>

#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace fathom {
namespace {

class RealRandom final : public Random {
 public:
  uint64_t Next() override {
    uint64_t value = 0;
    // 8 bytes never come in part; the call fails only where the kernel has no generator at all.
    if (getrandom(&value, sizeof value, 0) != sizeof value) std::abort();
    return value;
  }
};

}  // namespace

Random* Random::Real() {
  static RealRandom random;
  return &random;
}

std::string RandomBytes(Random& random, size_t bytes) {
  std::string raw;
  while (raw.size() < bytes) {
    const uint64_t word = random.Next();
    raw.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  raw.resize(bytes);
  return raw;
}

std::string RandomHex(Random& random, size_t bytes) {
  return absl::BytesToHexString(RandomBytes(random, bytes));
}

}  // namespace fathom
