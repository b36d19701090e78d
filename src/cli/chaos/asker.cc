#include "cli/chaos/asker.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kPauseFirst = absl::Milliseconds(20);
constexpr absl::Duration kPauseMax = absl::Milliseconds(500);

}  // namespace

const char* NameOf(ClientKind kind) {
  switch (kind) {
    case ClientKind::kPlain:
      return "plain";
    case ClientKind::kResuming:
      return "resuming";
    case ClientKind::kOurs:
      return "ours";
  }
  return "";
}

absl::StatusOr<std::vector<ClientKind>> ParseClientKinds(std::string_view text) {
  std::vector<ClientKind> kinds;
  for (const absl::string_view name : absl::StrSplit(ToAbsl(text), ',')) {
    const auto* found = std::find_if(std::begin(kClientKinds), std::end(kClientKinds),
                                     [&](ClientKind kind) { return name == NameOf(kind); });
    if (found == std::end(kClientKinds)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", name, "' is no kind of client: ours, resuming or plain"));
    }
    if (std::find(kinds.begin(), kinds.end(), *found) == kinds.end()) kinds.push_back(*found);
  }
  return kinds;
}

absl::Duration RetryPause(int failures, Random& random) {
  const absl::Duration pause =
      std::min(kPauseMax, kPauseFirst * (1 << std::clamp(failures - 1, 0, 10)));
  return pause * (0.5 + 0.5 * random.NextUnit());
}

}  // namespace fathom::cli
