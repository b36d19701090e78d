#include "cli/chaos/injection.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::cli {

absl::StatusOr<InjectionKind> ParseInjection(std::string_view name) {
  if (name.empty()) return InjectionKind::kNone;
  if (name == "duplicate") return InjectionKind::kDuplicate;
  if (name == "gap") return InjectionKind::kGap;
  if (name == "swap") return InjectionKind::kSwap;
  return absl::InvalidArgumentError(
      absl::StrCat("'", ToAbsl(name), "' is not duplicate, gap or swap"));
}

void Injector::Push(int32_t choice, std::string_view text, const Sink& sink) {
  if (holds_) {
    // Only pieces of one choice that differ change places: anything else would show nothing.
    if (choice == held_choice_ && text != held_) {
      holds_ = false;
      touched_ = true;
      sink(choice, text);
      sink(choice, held_);
      return;
    }
    Flush(sink);
  }
  const bool now = kind_ != InjectionKind::kNone && !touched_ && pieces_++ >= kPiece;
  if (now && kind_ == InjectionKind::kSwap) {
    holds_ = true;
    held_choice_ = choice;
    held_ = std::string(text);
    return;
  }
  touched_ |= now;
  if (now && kind_ == InjectionKind::kGap) return;
  sink(choice, text);
  if (now && kind_ == InjectionKind::kDuplicate) sink(choice, text);
}

void Injector::Flush(const Sink& sink) {
  if (std::exchange(holds_, false)) sink(held_choice_, held_);
}

}  // namespace fathom::cli
