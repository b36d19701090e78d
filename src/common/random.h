#pragma once

// Randomness as a dependency: ids, seeds and jitter come from a Random, so that tests are exact.

#include <cstddef>
#include <cstdint>
#include <string>

namespace fathom {

class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t Next() = 0;

  // [0, 1)
  double NextUnit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // The operating system's generator, fit for keys. Any thread.
  static Random* Real();
};

// The same numbers for the same seed (SplitMix64). One thread.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next() override {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// `bytes` random bytes, and the same in lower-case hex.
std::string RandomBytes(Random& random, size_t bytes);
std::string RandomHex(Random& random, size_t bytes);

}  // namespace fathom
