#include "cli/load/report.h"

#include <boost/json.hpp>
#include <utility>

#include "absl/strings/str_format.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

double PerSecond(int64_t count, absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

std::string Row(const char* name, const Summary& s) {
  return absl::StrFormat("%-10s %10.3f %10.3f %10.3f %10.3f %10.3f %10.3f\n", name, s.mean, s.p50,
                         s.p90, s.p95, s.p99, s.max);
}

json::object ToJson(const Summary& s) {
  return {{"count", s.count}, {"mean", s.mean}, {"p50", s.p50}, {"p90", s.p90},
          {"p95", s.p95},     {"p99", s.p99},   {"max", s.max}};
}

}  // namespace

std::string LoadTable(const LoadOutcome& outcome) {
  const Tally& tally = outcome.tally;
  const absl::Duration took = outcome.took;
  const int64_t tokens = tally.prompt_tokens() + tally.output_tokens();
  std::string out = absl::StrFormat(
      "requests       %d ok, %d failed%s\n"
      "duration       %.3f s\n"
      "throughput     %.2f requests/s, %.1f input and %.1f output tokens/s (%.1f together)\n"
      "tokens         %d in, %d out, %.2f a message\n"
      "concurrent     %d at most\n",
      tally.ok(), tally.failed(), outcome.interrupted ? ", interrupted" : "",
      absl::ToDoubleSeconds(took), PerSecond(tally.ok(), took),
      PerSecond(tally.prompt_tokens(), took), PerSecond(tally.output_tokens(), took),
      PerSecond(tokens, took), tally.prompt_tokens(), tally.output_tokens(),
      tally.pieces() == 0
          ? 0
          : static_cast<double>(tally.output_tokens()) / static_cast<double>(tally.pieces()),
      outcome.peak_concurrent);
  if (tally.goodput().any()) {
    out +=
        absl::StrFormat("goodput        %.2f requests/s, %d of %d within the limits\n",
                        PerSecond(tally.good(), took), tally.good(), tally.ok() + tally.failed());
  }
  for (const auto& [code, error] : tally.errors()) {
    out += absl::StrFormat("error          %d x %s: %s\n", error.count, code, error.first);
  }
  if (tally.ok() == 0) return out;
  out += absl::StrFormat("\n%-10s %10s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90",
                         "p95", "p99", "max");
  out += Row("TTFT", tally.ttft_ms());
  out += Row("ITL", tally.itl_ms());
  out += Row("TPOT", tally.tpot_ms());
  out += Row("E2E", tally.e2e_ms());
  out += Row("sent late", tally.lateness_ms());
  return out;
}

std::string LoadJson(const LoadOutcome& outcome, const std::string& setup_json) {
  const Tally& tally = outcome.tally;
  const absl::Duration took = outcome.took;
  json::object errors;
  for (const auto& [code, error] : tally.errors()) {
    errors[code] = json::object{{"count", error.count}, {"first", error.first}};
  }
  json::object object = {
      {"setup", json::parse(setup_json)},
      {"requests", {{"ok", tally.ok()}, {"failed", tally.failed()}, {"errors", std::move(errors)}}},
      {"interrupted", outcome.interrupted},
      {"duration_s", absl::ToDoubleSeconds(took)},
      {"request_throughput", PerSecond(tally.ok(), took)},
      {"input_tokens", tally.prompt_tokens()},
      {"output_tokens", tally.output_tokens()},
      {"output_messages", tally.pieces()},
      {"input_throughput", PerSecond(tally.prompt_tokens(), took)},
      {"output_throughput", PerSecond(tally.output_tokens(), took)},
      {"total_token_throughput", PerSecond(tally.prompt_tokens() + tally.output_tokens(), took)},
      {"peak_concurrent", outcome.peak_concurrent},
      {"ttft_ms", ToJson(tally.ttft_ms())},
      {"itl_ms", ToJson(tally.itl_ms())},
      {"tpot_ms", ToJson(tally.tpot_ms())},
      {"e2e_ms", ToJson(tally.e2e_ms())},
      {"sent_late_ms", ToJson(tally.lateness_ms())}};
  if (tally.goodput().any()) {
    object["good_requests"] = tally.good();
    object["request_goodput"] = PerSecond(tally.good(), took);
  }
  return json::serialize(object) + "\n";
}

std::string LoadProgressLine(const LoadProgress& progress, int64_t of) {
  const std::string total = of > 0 ? absl::StrFormat("/%d", of) : "";
  return absl::StrFormat("%d%s done, %d running, %d failed, %.1f/s, %.0f tokens/s", progress.done,
                         total, progress.running, progress.failed,
                         PerSecond(progress.done, progress.since_start),
                         PerSecond(progress.output_tokens, progress.since_start));
}

}  // namespace fathom::cli
