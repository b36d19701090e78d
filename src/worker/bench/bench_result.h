#pragma once

// What a run of the benchmark measured. Rates are medians. A share is the median over pairs that
// were measured one right after the other, so that what else the machine does falls on both.

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::worker {

struct DecodeResult {
  int32_t batch = 0;
  int32_t context = 0;
  int32_t steps = 0;   // that were measured
  double seconds = 0;  // a step
  int64_t bytes = 0;   // that a step has to read
  double of_read_bandwidth = 0;

  double TokensPerSecond() const { return batch / seconds; }
  double BytesPerSecond() const { return static_cast<double>(bytes) / seconds; }
};

struct PrefillResult {
  int32_t prompt = 0;
  int32_t runs = 0;
  double seconds = 0;  // a prompt
  int64_t flop = 0;    // in matrix products
  double peer_flop_per_second = 0;
  double of_peer = 0;

  double TokensPerSecond() const { return prompt / seconds; }
  double FlopPerSecond() const { return static_cast<double>(flop) / seconds; }
};

struct BenchResult {
  std::string model;
  std::string weights;  // "random" or "checkpoint"
  std::string dtype;
  std::string peer_dtype;  // what oneDNN multiplies in: it may lack ours
  std::string processor;
  std::string isa;
  int32_t threads = 0;
  bool batch_invariant = false;
  double load_seconds = 0;
  int64_t probe_bytes = 0;
  double read_one_thread = 0;  // bytes a second
  double read_all_threads = 0;
  std::vector<DecodeResult> decode;
  std::vector<PrefillResult> prefill;
  int32_t left_out = 0;  // cells the time was too short for
};

}  // namespace fathom::worker
