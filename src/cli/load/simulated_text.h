#pragma once

// What a simulated worker (benchmarks/sim_worker) answers: a pure function of the prompt's tokens
// and the position, one letter or digit a token, so that a client can tell a wrong, missing or
// repeated token from the text alone. Character i is kAlphabet[(start + i * step) % 61], and the
// prompt gives start and step (never 0): after two characters the whole rest is known even to one
// who does not know the prompt's tokens. A gap of a whole multiple of 61 shows in the count alone.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/domain.h"

namespace fathom::cli {

inline constexpr std::string_view kSimulatedAlphabet =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012345678";
static_assert(kSimulatedAlphabet.size() == 61, "prime, so that every step visits all");

// The hash of a history and one more token; histories begin with 0.
inline uint64_t ExtendHistory(uint64_t history, TokenId token) {
  uint64_t x = history * 0x9e3779b97f4a7c15ULL + static_cast<uint64_t>(token) + 1;
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  return x ^ (x >> 33);
}

uint64_t HistoryOf(std::span<const TokenId> tokens);

// Index into the alphabet of output token `position` after a prompt.
inline size_t SimulatedLetter(uint64_t prompt_history, int64_t position) {
  const uint64_t start = prompt_history % kSimulatedAlphabet.size();
  const uint64_t step = 1 + (prompt_history >> 32) % (kSimulatedAlphabet.size() - 1);
  return (start + static_cast<uint64_t>(position) % kSimulatedAlphabet.size() * step) %
         kSimulatedAlphabet.size();
}

// Checks one answer piece by piece.
class SimulatedTextCheck {
 public:
  // Without the prompt's history the first two characters are taken on trust.
  explicit SimulatedTextCheck(std::optional<uint64_t> prompt_history = std::nullopt);

  // DATA_LOSS, which says where, at the first wrong character; then for ever.
  absl::Status Push(std::string_view text);
  int64_t length() const { return length_; }

 private:
  std::optional<size_t> Expected(size_t letter);

  bool known_;  // start_ and step_ are
  size_t start_ = 0;
  size_t step_ = 0;
  int64_t length_ = 0;
  absl::Status status_;
};

}  // namespace fathom::cli
