#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/philox.h"

namespace fathom::cpu {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// False for NaN and +infinity; -infinity is a token the model rules out.
bool AllBelowInfinity(std::span<const float> logits) {
  for (const float x : logits) {
    if (!(x < std::numeric_limits<float>::infinity())) return false;
  }
  return true;
}

// Gumbel noise from one 32-bit draw. v is near 0 where the noise is large, so the tail that decides
// keeps its precision.
float Gumbel(uint32_t draw) {
  const float v = std::min((static_cast<float>(draw) + 0.5F) * 0x1p-32F, 1.0F - 0x1p-24F);
  return -std::log(-std::log1p(-v));
}

// log(sum(exp(logits))) and the best ones, of raw logits.
struct LogSoftmax {
  explicit LogSoftmax(std::span<const float> logits) : logits_(logits) {
    const float max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
    log_sum_ = max + std::log(sum);
  }
  float Of(int32_t id) const { return static_cast<float>(logits_[id] - log_sum_); }

  // Writes the `count` best, best first; fills up with -1 beyond the vocabulary.
  void Top(int32_t count, int32_t width, int32_t* tokens, float* logprobs) const {
    int32_t found = 0;
    for (int32_t id = 0; id < static_cast<int32_t>(logits_.size()); ++id) {
      if (found == count && (count == 0 || logits_[id] <= logits_[tokens[found - 1]])) continue;
      int32_t at = found < count ? found++ : found - 1;
      for (; at > 0 && logits_[tokens[at - 1]] < logits_[id]; --at) tokens[at] = tokens[at - 1];
      tokens[at] = id;
    }
    for (int32_t i = 0; i < found; ++i) logprobs[i] = Of(tokens[i]);
    for (int32_t i = found; i < width; ++i) {
      tokens[i] = -1;
      logprobs[i] = kMasked;
    }
  }

 private:
  std::span<const float> logits_;
  double log_sum_ = 0;
};

// Bias, masks and penalties: `x` holds the raw logits and is changed.
void Adjust(const SamplingRow& row, std::span<float> x) {
  for (int32_t i = 0; i < row.num_bias; ++i) x[row.bias_tokens[i]] += row.bias_values[i];
  if (row.mask != nullptr) {
    for (size_t id = 0; id < x.size(); ++id) {
      if ((row.mask[id / 32] >> (id % 32) & 1) == 0) x[id] = kMasked;
    }
  }
  for (int32_t i = 0; i < row.num_banned; ++i) x[row.banned[i]] = kMasked;
  if (row.counts == nullptr) return;
  for (int32_t i = 0; i < *row.num_counts; ++i) {
    const TokenCount& seen = row.counts[i];
    float& logit = x[seen.token];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.in_output > 0) {
      logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(seen.in_output);
    }
  }
}

// Cuts sorted candidates to the shortest head that holds top_p of their weight, going on sorting
// only as far as that head reaches.
void CutTopP(float top_p, float temperature, float max, bool sorted, std::vector<Candidate>* c) {
  const auto weight = [&](const Candidate& x) {
    return std::exp(static_cast<double>((x.logit - max) / temperature));
  };
  double total = 0;
  for (const Candidate& x : *c) total += weight(x);
  const double wanted = total * top_p;
  double sum = 0;
  size_t done = 0;
  size_t batch = 64;
  while (done < c->size()) {
    const size_t end = sorted ? c->size() : std::min(c->size(), done + batch);
    if (!sorted) {
      const auto from = c->begin() + static_cast<std::ptrdiff_t>(done);
      std::partial_sort(from, c->begin() + static_cast<std::ptrdiff_t>(end), c->end(), Better);
    }
    for (; done < end; ++done) {
      sum += weight((*c)[done]);
      if (sum >= wanted) {
        c->resize(done + 1);
        return;
      }
    }
    batch *= 4;
  }
}

// The id with the highest logit / temperature + noise among the candidates.
int32_t PickGumbel(const SamplingRow& row, float max, std::span<const Candidate> candidates) {
  int32_t best = -1;
  float best_score = 0;
  uint32_t quad = ~0U;
  Philox4x32 draws{};
  for (const Candidate& c : candidates) {
    const auto id = static_cast<uint32_t>(c.id);
    if (id / 4 != quad) {
      quad = id / 4;
      draws = SamplingDraws(row.seed, row.choice, row.position, quad);
    }
    const float score = (c.logit - max) / row.temperature + Gumbel(draws.v[id % 4]);
    if (best < 0 || score > best_score || (score == best_score && c.id < best)) {
      best = c.id;
      best_score = score;
    }
  }
  return best;
}

int32_t Choose(const SamplingRow& row, std::span<const float> x, std::vector<Candidate>* c) {
  const auto top = std::max_element(x.begin(), x.end());  // the first of equals
  const float max = *top;
  if (max == kMasked) return -1;
  if (row.temperature == 0) return static_cast<int32_t>(top - x.begin());

  c->clear();
  for (int32_t id = 0; id < static_cast<int32_t>(x.size()); ++id) {
    if (x[id] != kMasked) c->push_back({x[id], id});
  }
  bool sorted = false;
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < c->size()) {
    std::partial_sort(c->begin(), c->begin() + row.top_k, c->end(), Better);
    c->resize(row.top_k);
    sorted = true;
  }
  if (row.top_p < 1) CutTopP(row.top_p, row.temperature, max, sorted, c);
  if (row.min_p > 0) {
    std::erase_if(*c, [&](const Candidate& k) {
      return std::exp((k.logit - max) / row.temperature) < row.min_p;
    });
  }
  return PickGumbel(row, max, *c);
}

void Count(const SamplingRow& row, int32_t token) {
  for (int32_t i = 0; i < *row.num_counts; ++i) {
    if (row.counts[i].token == token) {
      ++row.counts[i].in_output;
      return;
    }
  }
  if (*row.num_counts < row.counts_capacity) row.counts[(*row.num_counts)++] = {token, 0, 1};
}

bool NeedsCopy(const SamplingRow& row) {
  return row.num_bias > 0 || row.num_banned > 0 || row.mask != nullptr || row.counts != nullptr;
}

}  // namespace

absl::Status SampleTokens(const SamplingArgs& args, SamplingScratch* scratch) {
  for (int32_t i = 0; i < args.num_rows; ++i) {
    const SamplingRow& row = args.rows[i];
    if (row.logit_row < 0 || row.logit_row >= args.num_logit_rows ||
        row.num_logprobs > args.max_logprobs) {
      return absl::InvalidArgumentError("sampling row outside of the logits");
    }
    const std::span<const float> raw(args.logits + static_cast<size_t>(row.logit_row) * args.vocab,
                                     args.vocab);
    int32_t token = -1;
    args.status[i] = kRowNotFinite;
    if (AllBelowInfinity(raw)) {
      std::span<const float> x = raw;
      if (NeedsCopy(row)) {
        scratch->logits.assign(raw.begin(), raw.end());
        Adjust(row, scratch->logits);
        x = scratch->logits;
      }
      token = Choose(row, x, &scratch->candidates);
      args.status[i] = token < 0 ? kRowNoCandidate : kRowOk;
    }
    args.tokens[i] = std::max(token, 0);
    args.slot_tokens[row.slot] = args.tokens[i];
    if (token < 0) continue;
    if (row.counts != nullptr) Count(row, token);
    if (row.num_logprobs >= 0) {
      const LogSoftmax softmax(raw);
      args.logprobs[i] = softmax.Of(token);
      const size_t at = static_cast<size_t>(i) * args.max_logprobs;
      softmax.Top(row.num_logprobs, args.max_logprobs, args.top_tokens + at,
                  args.top_logprobs + at);
    }
  }
  return absl::OkStatus();
}

absl::Status ScoreTokens(const ScoringArgs& args) {
  for (int32_t i = 0; i < args.num_rows; ++i) {
    const ScoringRow& row = args.rows[i];
    if (row.logit_row < 0 || row.logit_row >= args.num_logit_rows || row.target < 0 ||
        row.target >= args.vocab || row.num_logprobs > args.max_logprobs) {
      return absl::InvalidArgumentError("scoring row outside of the logits");
    }
    const std::span<const float> raw(args.logits + static_cast<size_t>(row.logit_row) * args.vocab,
                                     args.vocab);
    args.status[i] = AllBelowInfinity(raw) ? kRowOk : kRowNotFinite;
    if (args.status[i] != kRowOk) continue;
    const LogSoftmax softmax(raw);
    args.logprobs[i] = softmax.Of(row.target);
    const size_t at = static_cast<size_t>(i) * args.max_logprobs;
    softmax.Top(row.num_logprobs, args.max_logprobs, args.top_tokens + at, args.top_logprobs + at);
  }
  return absl::OkStatus();
}

}  // namespace fathom::cpu
