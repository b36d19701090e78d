#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "kernels/philox.h"

namespace fathom::kernels::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMasked = -kInfinity;

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The largest logit, the lowest id that has it, and whether all are below +infinity and none is
// NaN.
struct Peak {
  float max = kMasked;
  int32_t id = 0;
  bool finite = true;
};

// Blocks with independent lanes, which compilers turn into vector code; only the block that holds
// the maximum is searched for its place.
Peak FindPeak(std::span<const float> x) {
  constexpr size_t kLanes = 16;
  constexpr size_t kBlock = 1024;
  Peak peak;
  size_t best_block = 0;
  for (size_t begin = 0; begin < x.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, x.size());
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, kMasked);
    uint32_t bad[kLanes] = {};
    size_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) {
        lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
        bad[j] |= x[i + j] < kInfinity ? 0U : 1U;
      }
    }
    for (; i < end; ++i) {
      lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
      bad[0] |= x[i] < kInfinity ? 0U : 1U;
    }
    const float max = *std::max_element(lanes, lanes + kLanes);
    if (max > peak.max) {
      peak.max = max;
      best_block = begin;
    }
    peak.finite &= std::none_of(bad, bad + kLanes, [](uint32_t b) { return b != 0; });
  }
  const auto from = x.begin() + static_cast<std::ptrdiff_t>(best_block);
  peak.id = static_cast<int32_t>(std::find(from, x.end(), peak.max) - x.begin());
  return peak;
}

// Gumbel noise from one 32-bit draw. v is near 0 where the noise is large, so the tail that decides
// keeps its precision.
float Gumbel(uint32_t draw) {
  const float v = std::min((static_cast<float>(draw) + 0.5F) * 0x1p-32F, 1.0F - 0x1p-24F);
  return -std::log(-std::log1p(-v));
}

// At least Gumbel(draw), from the draw's leading zeros: -log(-log1p(-v)) <= -log(v).
float GumbelBound(uint32_t draw) {
  return static_cast<float>(std::countl_zero(draw) + 1) * 0.6931472F + 1e-3F;
}

// log(sum(exp(logits))) and the best ones, of raw logits.
struct LogSoftmax {
  LogSoftmax(std::span<const float> logits, float max) : logits_(logits) {
    double sum = 0;
    for (const float x : logits) sum += std::exp(x - max);
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

// Keeps the best `count`, in no order.
void CutTopK(size_t count, std::vector<Candidate>* c) {
  if (count >= c->size()) return;
  std::nth_element(c->begin(), c->begin() + static_cast<std::ptrdiff_t>(count), c->end(), Better);
  c->resize(count);
}

// Keeps the shortest head, best first, that holds top_p of the weight, in no order. A quickselect
// by weight: linear in the candidates.
void CutTopP(float top_p, float temperature, float max, std::vector<Candidate>* c) {
  double total = 0;
  for (Candidate& x : *c) {
    x.weight = std::exp((x.logit - max) / temperature);
    total += x.weight;
  }
  double wanted = total * top_p;
  auto low = c->begin();
  auto high = c->end();  // the head ends in [low, high]; `wanted` counts from low
  while (high - low > 32) {
    auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, Better);
    double sum = 0;
    for (auto it = low; it != middle; ++it) sum += it->weight;
    if (sum >= wanted) {
      high = middle;
    } else {
      wanted -= sum;
      low = middle;
    }
  }
  std::sort(low, high, Better);
  for (; low != high; ++low) {
    wanted -= low->weight;
    if (wanted <= 0) {
      c->erase(low + 1, c->end());
      return;
    }
  }
  c->erase(high, c->end());
}

// The id with the highest logit / temperature + noise among the candidates. Most cannot win
// whatever their noise within its bound: theirs is not computed.
int32_t PickGumbel(const SamplingRow& row, float max, std::span<const Candidate> candidates) {
  int32_t best = -1;
  float best_score = 0;
  uint32_t quad = ~0U;
  Philox4x32 draws{};
  for (const Candidate& c : candidates) {
    const float base = (c.logit - max) / row.temperature;
    if (best >= 0 && base + GumbelBound(0) < best_score) continue;
    const auto id = static_cast<uint32_t>(c.id);
    if (id / 4 != quad) {
      quad = id / 4;
      draws = SamplingDraws(row.seed, row.choice, row.position, quad);
    }
    const uint32_t draw = draws.v[id % 4];
    if (best >= 0 && base + GumbelBound(draw) < best_score) continue;
    const float score = base + Gumbel(draw);
    if (best < 0 || score > best_score || (score == best_score && c.id < best)) {
      best = c.id;
      best_score = score;
    }
  }
  return best;
}

// -1 when nothing may come.
int32_t Choose(const SamplingRow& row, std::span<const float> x, const Peak& peak,
               std::vector<Candidate>* c) {
  if (peak.max == kMasked) return -1;
  if (row.temperature == 0) return peak.id;

  // min_p is relative to the best, which neither top-k nor top-p removes: it may come first.
  const float floor = row.min_p > 0 ? peak.max + row.temperature * std::log(row.min_p) : kMasked;
  const bool first = row.top_k == 0 && row.top_p == 1;
  c->clear();
  for (int32_t id = 0; id < static_cast<int32_t>(x.size()); ++id) {
    if (x[id] != kMasked && (!first || x[id] >= floor)) c->push_back({x[id], id, 0});
  }
  if (row.top_k > 0) CutTopK(row.top_k, c);
  if (row.top_p < 1) CutTopP(row.top_p, row.temperature, peak.max, c);
  if (!first && row.min_p > 0) {
    std::erase_if(*c, [&](const Candidate& k) { return k.logit < floor; });
  }
  return PickGumbel(row, peak.max, *c);
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
  if (args.logits_dtype != DType::kF32) return absl::InvalidArgumentError("logits are not FP32");
  const auto* logits = static_cast<const float*>(args.logits);
  for (int32_t i = 0; i < args.num_rows; ++i) {
    const SamplingRow& row = args.rows[i];
    if (row.logit_row < 0 || row.logit_row >= args.num_logit_rows ||
        row.num_logprobs > args.max_logprobs) {
      return absl::InvalidArgumentError("sampling row outside of the logits");
    }
    const std::span<const float> raw(logits + static_cast<size_t>(row.logit_row) * args.vocab,
                                     args.vocab);
    int32_t token = -1;
    args.status[i] = kRowNotFinite;
    const Peak raw_peak = FindPeak(raw);
    if (raw_peak.finite) {
      std::span<const float> x = raw;
      Peak peak = raw_peak;
      if (NeedsCopy(row)) {
        scratch->logits.assign(raw.begin(), raw.end());
        Adjust(row, scratch->logits);
        x = scratch->logits;
        peak = FindPeak(x);
      }
      token = Choose(row, x, peak, &scratch->candidates);
      args.status[i] = token < 0 ? kRowNoCandidate : kRowOk;
    }
    args.tokens[i] = std::max(token, 0);
    args.slot_tokens[row.slot] = args.tokens[i];
    if (token < 0) continue;
    if (row.counts != nullptr) Count(row, token);
    if (row.num_logprobs >= 0) {
      const LogSoftmax softmax(raw, raw_peak.max);
      args.logprobs[i] = softmax.Of(token);
      const size_t at = static_cast<size_t>(i) * args.max_logprobs;
      softmax.Top(row.num_logprobs, args.max_logprobs, args.top_tokens + at,
                  args.top_logprobs + at);
    }
  }
  return absl::OkStatus();
}

absl::Status ScoreTokens(const ScoringArgs& args) {
  if (args.logits_dtype != DType::kF32) return absl::InvalidArgumentError("logits are not FP32");
  const auto* logits = static_cast<const float*>(args.logits);
  for (int32_t i = 0; i < args.num_rows; ++i) {
    const ScoringRow& row = args.rows[i];
    if (row.logit_row < 0 || row.logit_row >= args.num_logit_rows || row.target < 0 ||
        row.target >= args.vocab || row.num_logprobs > args.max_logprobs) {
      return absl::InvalidArgumentError("scoring row outside of the logits");
    }
    const std::span<const float> raw(logits + static_cast<size_t>(row.logit_row) * args.vocab,
                                     args.vocab);
    const Peak peak = FindPeak(raw);
    args.status[i] = peak.finite ? kRowOk : kRowNotFinite;
    if (!peak.finite) continue;
    const LogSoftmax softmax(raw, peak.max);
    args.logprobs[i] = softmax.Of(row.target);
    const size_t at = static_cast<size_t>(i) * args.max_logprobs;
    softmax.Top(row.num_logprobs, args.max_logprobs, args.top_tokens + at, args.top_logprobs + at);
  }
  return absl::OkStatus();
}

}  // namespace fathom::kernels::cpu
