#pragma once

// A benchmark's result for people and for programs. Thread safety: pure functions.

#include <string>

#include "worker/bench/bench_result.h"

namespace fathom::worker {

std::string BenchTables(const BenchResult& result);

// {"model", "weights", "dtype", "processor", "isa", "threads", "batch_invariant", "load_seconds",
// "read_bandwidth": {"buffer_bytes", "one_thread", "all_threads"}, "decode": [...],
// "prefill": [...], "left_out"}; rates in bytes, FLOP or tokens a second.
std::string BenchJson(const BenchResult& result);

}  // namespace fathom::worker
