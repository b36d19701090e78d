#include "master/serving/router.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>

namespace fathom::master {
namespace {

// Of a worker that has computed no prompt yet, where no other has either.
constexpr float kUnknownPrefillRate = 10'000;
// Estimates closer than this are equal: they are not more exact.
constexpr double kTieShare = 0.05;
constexpr double kTieSeconds = 0.001;
// A prompt holds up its own first token and whoever comes after it.
constexpr double kComputeWeight = 2;
// Every later token comes a step after the one before, and joining a worker makes its steps longer
// for all that run there. So many tokens, no more, are in the reckoning: enough to spread decodes,
// too little to leave a long prefix.
constexpr double kStepsWeight = 32;

RouteObstacle ObstacleOf(const RouteCandidate& candidate, const WorkerLoad& load,
                         const RouteRequest& request) {
  if (candidate.obstacle != RouteObstacle::kNone) return candidate.obstacle;
  if (request.now_ns < load.avoid_until_ns || load.suspects > 0) return RouteObstacle::kBusy;
  const bool fits = load.cost + request.cost <= candidate.credit;
  const bool alone = load.requests == 0 && candidate.credit > 0;
  return fits || alone ? RouteObstacle::kNone : RouteObstacle::kBusy;
}

// A hit leaves a token to compute.
int32_t CachedTokens(const RouteCandidate& candidate, int32_t blocks, int32_t prompt_tokens) {
  const int64_t cached = int64_t{blocks} * candidate.block_tokens;
  return static_cast<int32_t>(std::clamp<int64_t>(cached, 0, std::max(prompt_tokens - 1, 0)));
}

// What to expect of workers that have not computed a prompt yet: what the others do.
float UsualPrefillRate(const RouteTable& table) {
  double sum = 0;
  int32_t known = 0;
  for (const RouteCandidate& candidate : table.candidates) {
    if (candidate.prefill_tokens_per_second <= 0) continue;
    sum += candidate.prefill_tokens_per_second;
    ++known;
  }
  return known == 0 ? kUnknownPrefillRate : static_cast<float>(sum / known);
}

double EstimateSeconds(const RouteCandidate& candidate, const WorkerLoad& load, int32_t cached,
                       float usual_rate, const RouteRequest& request) {
  const double rate =
      candidate.prefill_tokens_per_second > 0 ? candidate.prefill_tokens_per_second : usual_rate;
  const double compute = request.prompt_tokens - cached;
  const double since =
      std::max<double>(0, static_cast<double>(request.now_ns - candidate.heard_ns));
  const double queued =
      std::max(0.0, static_cast<double>(candidate.queued_tokens + load.unreported_tokens) -
                        rate * since / 1e9);
  double seconds =
      (queued + kComputeWeight * compute) / rate + kStepsWeight * candidate.step_seconds;
  if (candidate.total_blocks > 0) {
    // Where blocks are short, as many must come free, which running sequences do at the rate they
    // are produced.
    const double missing =
        compute + queued - double{1} * candidate.free_blocks * candidate.block_tokens;
    if (missing > 0) seconds += missing / std::max(candidate.tokens_per_second, 1.0F);
  }
  return seconds;
}

// Share of the credit in use, then length of queue.
std::tuple<double, int32_t> LoadOf(const RouteCandidate& candidate, const WorkerLoad& load) {
  return {
      static_cast<double>(load.cost) / static_cast<double>(std::max<int64_t>(candidate.credit, 1)),
      candidate.waiting + load.requests};
}

// Two different ones of `ties`, or the only one.
size_t LighterOfTwo(const RouteTable& table, std::span<const WorkerLoad> loads,
                    std::span<const uint32_t> ties, uint64_t draw) {
  const size_t first = (draw >> 32) % ties.size();
  if (ties.size() == 1) return ties[first];
  const size_t second = (first + 1 + (draw & UINT32_MAX) % (ties.size() - 1)) % ties.size();
  const auto load_of = [&](size_t tie) {
    const RouteCandidate& candidate = table.candidates[ties[tie]];
    return LoadOf(candidate, loads[candidate.slot]);
  };
  return load_of(second) < load_of(first) ? ties[second] : ties[first];
}

}  // namespace

std::string_view Describe(RouteObstacle obstacle) {
  switch (obstacle) {
    case RouteObstacle::kNone:
      return "a worker is free";
    case RouteObstacle::kNoWorker:
      return "no worker that may run the model is connected";
    case RouteObstacle::kModelNotLoaded:
      return "no connected worker has the model loaded";
    case RouteObstacle::kModelDiffers:
      return "the workers have another version of the model than the master";
    case RouteObstacle::kNotReady:
      return "no worker is ready yet";
    case RouteObstacle::kBusy:
      return "all workers are busy";
  }
  return "unknown";
}

Route PickWorker(const RouteTable& table, std::span<const WorkerLoad> loads,
                 const RouteRequest& request) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  const size_t count = std::min(table.candidates.size(), kWorkerSlotsMax);
  std::array<int32_t, kWorkerSlotsMax> blocks_of;  // by slot
  std::fill_n(blocks_of.begin(), std::min(loads.size(), kWorkerSlotsMax), 0);
  for (const PrefixMatch& match : request.matches) {
    if (match.worker < loads.size()) blocks_of[match.worker] = match.blocks;
  }
  const auto cached_on = [&](const RouteCandidate& candidate) {
    return CachedTokens(candidate, blocks_of[candidate.slot], request.prompt_tokens);
  };

  std::array<double, kWorkerSlotsMax> seconds_of;  // by candidate
  const float usual_rate = UsualPrefillRate(table);
  RouteObstacle obstacle = table.nothing;
  double best = kNever;
  for (size_t i = 0; i < count; ++i) {
    const RouteCandidate& candidate = table.candidates[i];
    const WorkerLoad& load = loads[candidate.slot];
    const RouteObstacle here = ObstacleOf(candidate, load, request);
    seconds_of[i] =
        here != RouteObstacle::kNone
            ? kNever
            : EstimateSeconds(candidate, load, cached_on(candidate), usual_rate, request);
    obstacle = std::max(obstacle, here);
    best = std::min(best, seconds_of[i]);
  }
  if (best == kNever) return {.obstacle = obstacle};

  std::array<uint32_t, kWorkerSlotsMax> ties;
  size_t num_ties = 0;
  const double about = best * (1 + kTieShare) + kTieSeconds;
  for (size_t i = 0; i < count; ++i) {
    if (seconds_of[i] <= about) ties[num_ties++] = static_cast<uint32_t>(i);
  }
  const RouteCandidate& picked =
      table.candidates[LighterOfTwo(table, loads, std::span(ties).first(num_ties), request.draw)];
  return {.candidate = &picked, .cached_tokens = cached_on(picked)};
}

}  // namespace fathom::master
