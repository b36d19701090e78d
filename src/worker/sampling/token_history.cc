#include "worker/sampling/token_history.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "worker/sampling/params.h"

namespace fathom::worker {

int32_t CountHistory(const SlotSetup& setup, int32_t vocab_size,
                     std::vector<kernels::TokenCount>* counts) {
  counts->clear();
  absl::flat_hash_map<TokenId, size_t> seen;
  const auto at = [&](TokenId token) -> kernels::TokenCount& {
    const auto [it, added] = seen.try_emplace(token, counts->size());
    if (added) counts->push_back({token, 0, 0});
    return (*counts)[it->second];
  };
  if (ReadsPrompt(setup.params)) {
    for (const TokenId token : setup.prompt) at(token).in_prompt = 1;
  }
  for (const TokenId token : setup.output) ++at(token).in_output;
  const auto num_counts = static_cast<int64_t>(counts->size());
  const int64_t room =
      num_counts +
      std::max<int64_t>(0, setup.max_output - static_cast<int64_t>(setup.output.size()));
  counts->resize(std::min<int64_t>(room, vocab_size));
  return static_cast<int32_t>(num_counts);
}

}  // namespace fathom::worker
