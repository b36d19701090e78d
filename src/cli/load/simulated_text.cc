#include "cli/load/simulated_text.h"

#include "absl/strings/str_cat.h"

namespace fathom::cli {
namespace {

constexpr size_t kLetters = kSimulatedAlphabet.size();

}  // namespace

uint64_t HistoryOf(std::span<const TokenId> tokens) {
  uint64_t history = 0;
  for (const TokenId token : tokens) history = ExtendHistory(history, token);
  return history;
}

SimulatedTextCheck::SimulatedTextCheck(std::optional<uint64_t> prompt_history)
    : known_(prompt_history.has_value()) {
  if (!known_) return;
  start_ = SimulatedLetter(*prompt_history, 0);
  step_ = (SimulatedLetter(*prompt_history, 1) + kLetters - start_) % kLetters;
}

// What must come at this place, given that `letter` came; nothing when any letter will do.
std::optional<size_t> SimulatedTextCheck::Expected(size_t letter) {
  if (!known_ && length_ == 0) {
    start_ = letter;
    return std::nullopt;
  }
  if (!known_ && length_ == 1) {
    step_ = (letter + kLetters - start_) % kLetters;
    known_ = true;
    // The same letter twice: no answer begins so.
    return step_ == 0 ? std::optional<size_t>((start_ + 1) % kLetters) : std::nullopt;
  }
  return (start_ + static_cast<size_t>(length_) % kLetters * step_) % kLetters;
}

absl::Status SimulatedTextCheck::Push(std::string_view text) {
  for (const char c : text) {
    if (!status_.ok()) return status_;
    const size_t letter = kSimulatedAlphabet.find(c);
    if (letter == std::string_view::npos) {
      status_ = absl::DataLossError(
          absl::StrCat("output ", length_, " is no text of a simulated worker"));
      return status_;
    }
    const std::optional<size_t> expected = Expected(letter);
    if (expected && *expected != letter) {
      status_ = absl::DataLossError(absl::StrCat(
          "wrong, missing or repeated token at output ", length_, ": '", std::string(1, c),
          "' instead of '", std::string(1, kSimulatedAlphabet[*expected]), "'"));
      return status_;
    }
    ++length_;
  }
  return status_;
}

}  // namespace fathom::cli
