#pragma once

// Faults put into what the checker reads, so that a run can prove that the checker sees them: the
// answers themselves are right. Once in so many answers one piece comes twice, not at all, or
// changes its place with the next one. One thread.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace fathom::cli {

enum class InjectionKind { kNone, kDuplicate, kGap, kSwap };
// "duplicate", "gap" or "swap"; empty: none. INVALID_ARGUMENT for anything else.
absl::StatusOr<InjectionKind> ParseInjection(std::string_view name);

// The pieces of one answer on their way to its transcript.
class Injector {
 public:
  using Sink = std::function<void(int32_t choice, std::string_view text)>;

  // The pieces of answer number `answer` go through; one in kEvery is touched.
  Injector(InjectionKind kind, uint64_t answer)
      : kind_(answer % kEvery == 0 ? kind : InjectionKind::kNone) {}

  void Push(int32_t choice, std::string_view text, const Sink& sink);
  // What is held back comes out. At the end of a choice's text, and of the answer.
  void Flush(const Sink& sink);
  bool touched() const { return touched_; }

  static constexpr uint64_t kEvery = 10;

 private:
  static constexpr int kPiece = 3;  // which one is touched, from 0

  const InjectionKind kind_;
  int pieces_ = 0;
  bool touched_ = false;
  bool holds_ = false;
  int32_t held_choice_ = 0;
  std::string held_;
};

}  // namespace fathom::cli
