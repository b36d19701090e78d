#include "master/serving/serving_metrics.h"

#include <vector>

namespace fathom::master {
namespace {

// Those of OpenTelemetry's gen_ai.server metrics, so that dashboards compare.
const std::vector<double>& FirstTokenBuckets() {
  static const std::vector<double> kBuckets{.001, .005, .01, .02, .04, .06, .08, .1,
                                            .25,  .5,   .75, 1,   2.5, 5,   7.5, 10};
  return kBuckets;
}
const std::vector<double>& TokenBuckets() {
  static const std::vector<double> kBuckets{.001, .0025, .005, .01, .025, .05, .075, .1,
                                            .15,  .2,    .3,   .4,  .5,   .75, 1,    2.5};
  return kBuckets;
}

std::shared_ptr<GenerationTally> AddTally() {
  auto tally = std::make_shared<GenerationTally>();
  AddCollectable(tally);
  return tally;
}

std::shared_ptr<ModelBoard> AddBoard() {
  auto board = std::make_shared<ModelBoard>();
  AddCollectable(board);
  return board;
}

prometheus::Counter& AddResumed(const char* from) {
  return AddCounter("fathom_master_resumed_total",
                    "Requests that went on for a client that came back: found here, found at a "
                    "worker, or run anew",
                    {{"from", from}});
}

}  // namespace

ServingMetrics::ServingMetrics()
    : time_to_first_token_seconds(AddHistogram("fathom_master_time_to_first_token_seconds",
                                               "From the start of a generation to its first token",
                                               FirstTokenBuckets())),
      inter_token_latency_seconds(AddHistogram("fathom_master_inter_token_latency_seconds",
                                               "Between two outputs of one choice, per token",
                                               TokenBuckets())),
      queue_seconds(AddHistogram("fathom_master_queue_seconds",
                                 "From the prompt's tokens to a place on a worker",
                                 FirstTokenBuckets())),
      routing_seconds(AddHistogram(
          "fathom_master_routing_seconds", "Time of one decision which worker runs a request",
          {1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2})),
      prompt_tokens(AddCounter("fathom_master_prompt_tokens_total", "Tokens of prompts")),
      cached_tokens(AddCounter("fathom_master_cached_prompt_tokens_total",
                               "Tokens of prompts that came from a prefix cache")),
      predicted_cached_tokens(
          AddCounter("fathom_master_predicted_cached_prompt_tokens_total",
                     "Tokens of prompts that the router expected in the prefix cache")),
      completion_tokens(
          AddCounter("fathom_master_completion_tokens_total", "Tokens of completions")),
      generations(AddTally()),
      workers_lost(AddCounter("fathom_master_attempts_lost_total",
                              "Attempts that ended because their worker was lost")),
      migrations(AddCounter("fathom_master_migrations_total",
                            "Requests that went on elsewhere after their worker was lost")),
      migration_stall_seconds(AddHistogram("fathom_master_migration_stall_seconds",
                                           "From the loss of a worker to the next token",
                                           FirstTokenBuckets())),
      resumed_here(AddResumed("here")),
      resumed_at_worker(AddResumed("worker")),
      resumed_anew(AddResumed("anew")),
      rejections(AddCounter("fathom_master_attempts_rejected_total",
                            "Attempts that a worker did not take on")),
      untaken(AddCounter("fathom_master_attempts_untaken_total",
                         "Attempts that went on elsewhere because their worker, which may have "
                         "been stopped or cut off, did not take them on in time")),
      queue_length(AddGauge("fathom_master_queue_length", "Requests that wait for a worker")),
      models(AddBoard()) {}

ServingMetrics& ServingMetrics::Get() {
  static ServingMetrics metrics;
  return metrics;
}

}  // namespace fathom::master
