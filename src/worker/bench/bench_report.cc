#include "worker/bench/bench_report.h"

#include <boost/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace fathom::worker {
namespace {

namespace json = boost::json;

constexpr double kGiga = 1e9;

json::object DecodeJson(const DecodeResult& cell) {
  return {{"batch", cell.batch},
          {"context", cell.context},
          {"steps", cell.steps},
          {"ms_per_step", cell.seconds * 1e3},
          {"tokens_per_second", cell.TokensPerSecond()},
          {"bytes_per_step", cell.bytes},
          {"bytes_per_second", cell.BytesPerSecond()},
          {"of_read_bandwidth", cell.of_read_bandwidth}};
}

json::object PrefillJson(const PrefillResult& cell) {
  return {{"prompt", cell.prompt},
          {"runs", cell.runs},
          {"ms", cell.seconds * 1e3},
          {"tokens_per_second", cell.TokensPerSecond()},
          {"flop", cell.flop},
          {"flop_per_second", cell.FlopPerSecond()},
          {"onednn_flop_per_second", cell.peer_flop_per_second},
          {"of_onednn", cell.of_peer}};
}

}  // namespace

std::string BenchTables(const BenchResult& result) {
  std::string text =
      absl::StrFormat("%s, %s weights, %s, %d thread%s%s, loaded in %.1f s\n%s, %s\n", result.model,
                      result.weights, result.dtype, result.threads, result.threads == 1 ? "" : "s",
                      result.batch_invariant ? ", batch-invariant" : "", result.load_seconds,
                      result.processor, result.isa);
  absl::StrAppendFormat(&text, "memory reads %.1f GB/s with one thread, %.1f with all (%d MB)\n",
                        result.read_one_thread / kGiga, result.read_all_threads / kGiga,
                        result.probe_bytes / 1'000'000);
  if (!result.decode.empty()) {
    absl::StrAppendFormat(&text, "\n%-8s %6s %8s %10s %10s %9s %7s  %s\n", "decode", "batch",
                          "context", "ms/step", "tokens/s", "MB/step", "GB/s", "of read bandwidth");
  }
  for (const DecodeResult& cell : result.decode) {
    absl::StrAppendFormat(&text, "%-8s %6d %8d %10.2f %10.1f %9.1f %7.1f  %.1f %%\n", "",
                          cell.batch, cell.context, cell.seconds * 1e3, cell.TokensPerSecond(),
                          static_cast<double>(cell.bytes) / 1e6, cell.BytesPerSecond() / kGiga,
                          100 * cell.of_read_bandwidth);
  }
  if (!result.prefill.empty()) {
    absl::StrAppendFormat(&text, "\n%-8s %6s %8s %10s %10s %9s %7s  %s\n", "prefill", "prompt",
                          "ms", "tokens/s", "GFLOP", "GFLOP/s", "oneDNN",
                          absl::StrCat("of oneDNN in ", result.peer_dtype));
  }
  for (const PrefillResult& cell : result.prefill) {
    absl::StrAppendFormat(&text, "%-8s %6d %8.1f %10.1f %10.1f %9.1f %7.1f  %.1f %%\n", "",
                          cell.prompt, cell.seconds * 1e3, cell.TokensPerSecond(),
                          static_cast<double>(cell.flop) / kGiga, cell.FlopPerSecond() / kGiga,
                          cell.peer_flop_per_second / kGiga, 100 * cell.of_peer);
  }
  if (result.left_out > 0) {
    absl::StrAppendFormat(&text, "\n%d cells left out: the time was over (--limit)\n",
                          result.left_out);
  }
  return text;
}

std::string BenchJson(const BenchResult& result) {
  json::array decode;
  for (const DecodeResult& cell : result.decode) decode.push_back(DecodeJson(cell));
  json::array prefill;
  for (const PrefillResult& cell : result.prefill) prefill.push_back(PrefillJson(cell));
  const json::object object = {{"model", result.model},
                               {"weights", result.weights},
                               {"dtype", result.dtype},
                               {"onednn_dtype", result.peer_dtype},
                               {"processor", result.processor},
                               {"isa", result.isa},
                               {"threads", result.threads},
                               {"batch_invariant", result.batch_invariant},
                               {"load_seconds", result.load_seconds},
                               {"read_bandwidth",
                                {{"buffer_bytes", result.probe_bytes},
                                 {"one_thread", result.read_one_thread},
                                 {"all_threads", result.read_all_threads}}},
                               {"decode", std::move(decode)},
                               {"prefill", std::move(prefill)},
                               {"left_out", result.left_out}};
  return json::serialize(object) + "\n";
}

}  // namespace fathom::worker
