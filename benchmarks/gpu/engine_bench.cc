// What a model's step takes on the GPU against what it has to move and to multiply: decode by batch
// and context, prefill by prompt. Steps are launched one behind the other, as the engine does; the
// device never waits for the host.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "benchmarks/gpu/ceilings.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/cuda/cuda_status.h"
#include "worker/bench/bench_model.h"
#include "worker/bench/work_count.h"

namespace fathom::benchmarks {
namespace {

using worker::BenchModel;
using worker::DecodeCase;

struct Options {
  std::string shape = "llama-3.1-8b";
  std::string dtype = "bf16";
  std::vector<int32_t> batches = {1, 8, 32, 128, 256};
  std::vector<int32_t> contexts = {1024};
  std::vector<int32_t> prompts = {8192};
  int32_t step_tokens = 8192;
  int32_t steps = 60;
  int32_t rounds = 5;
  double peak_tflops = 790;
  bool batch_invariant = false;
  std::string json;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  absl::Status Run() {
    double bandwidth = 0;
    RETURN_IF_ERROR(kernels::cuda::ToStatus(MeasureReadBandwidth(&bandwidth), "reading memory"));
    bandwidth_ = bandwidth;
    std::printf("read bandwidth %.0f GB/s; FLOP held against %.0f TFLOP/s\n", bandwidth / 1e9,
                options_.peak_tflops);
    std::vector<DecodeCase> cases;
    for (const int32_t context : options_.contexts) {
      for (const int32_t batch : options_.batches) cases.push_back({batch, context});
    }
    worker::ModelOptions model;
    model.dummy_shape = options_.shape;
    model.backend = worker::BackendKind::kCuda;
    model.compute_dtype = options_.dtype == "f16" ? DType::kF16 : DType::kBF16;
    model.max_step_tokens = options_.step_tokens;
    model.batch_invariant = options_.batch_invariant;
    const double before = Now();
    ASSIGN_OR_RETURN(model_, BenchModel::Create(model, cases, options_.prompts, INT64_MAX));
    RETURN_IF_ERROR(model_->Synchronize());
    std::printf("%s, %s, random weights, loaded in %.2f s\n", options_.shape.c_str(),
                Name(model_->kv_dtype()), Now() - before);
    std::printf("%-8s %8s %8s %10s %10s %9s\n", "", "batch", "context", "ms a step", "tokens/s",
                "of bound");
    for (const DecodeCase& one : cases) RETURN_IF_ERROR(Decode(one));
    for (const int32_t prompt : options_.prompts) RETURN_IF_ERROR(Prefill(prompt));
    if (options_.json.empty()) return absl::OkStatus();
    std::ofstream(options_.json) << boost::json::serialize(boost::json::object{
        {"shape", options_.shape}, {"read_bandwidth", bandwidth_}, {"cells", cells_}});
    return absl::OkStatus();
  }

 private:
  static double Now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  // The median over rounds of the seconds one call takes, `calls` of them in a row.
  template <typename Call>
  absl::StatusOr<double> Seconds(int32_t calls, const Call& call) {
    RETURN_IF_ERROR(call());
    RETURN_IF_ERROR(call());
    RETURN_IF_ERROR(model_->Synchronize());
    std::vector<double> rounds;
    for (int32_t r = 0; r < options_.rounds; ++r) {
      const double before = Now();
      for (int32_t i = 0; i < calls; ++i) RETURN_IF_ERROR(call());
      RETURN_IF_ERROR(model_->Synchronize());
      rounds.push_back((Now() - before) / calls);
    }
    std::ranges::nth_element(rounds, rounds.begin() + options_.rounds / 2);
    return rounds[static_cast<size_t>(options_.rounds / 2)];
  }

  // The sum over the products of max(bytes / bandwidth, FLOP / peak), and the cache's bytes.
  double Bound(const DecodeCase& one) const {
    const worker::ModelConfig& config = model_->config();
    const auto product = [&](int64_t n, int64_t k) {
      const double weights = static_cast<double>(n) * static_cast<double>(k);
      return std::max(2 * weights / bandwidth_,
                      2 * weights * one.batch / (options_.peak_tflops * 1e12));
    };
    double seconds = product(config.vocab_size, config.hidden_size);
    for (const worker::MatrixShape& matrix : worker::LayerMatrices(config)) {
      seconds += config.num_layers * product(matrix.n, matrix.k);
    }
    const double kv_bytes = 4.0 * config.num_layers * config.num_kv_heads * config.head_dim *
                            one.batch * (one.context + 1);
    return seconds + kv_bytes / bandwidth_;
  }

  absl::Status Decode(const DecodeCase& one) {
    ASSIGN_OR_RETURN(const double seconds,
                     Seconds(options_.steps, [&] { return model_->Decode(one); }));
    const double bound = Bound(one);
    std::printf("%-8s %8d %8d %10.3f %10.0f %8.1f%%\n", "decode", one.batch, one.context,
                seconds * 1e3, one.batch / seconds, 100 * bound / seconds);
    std::fflush(stdout);
    cells_.push_back(boost::json::object{{"kind", "decode"},
                                         {"batch", one.batch},
                                         {"context", one.context},
                                         {"seconds", seconds},
                                         {"bound_seconds", bound}});
    return absl::OkStatus();
  }

  absl::Status Prefill(int32_t prompt) {
    ASSIGN_OR_RETURN(const double seconds, Seconds(1, [&] { return model_->Prefill(prompt); }));
    const double flop = static_cast<double>(worker::PrefillFlop(model_->config(), prompt));
    std::printf("%-8s %8d %8d %10.3f %10.0f %8.1f%%  (products alone: %.0f TFLOP/s)\n", "prefill",
                1, prompt, seconds * 1e3, prompt / seconds,
                100 * flop / (options_.peak_tflops * 1e12) / seconds, flop / seconds / 1e12);
    std::fflush(stdout);
    cells_.push_back(boost::json::object{
        {"kind", "prefill"}, {"prompt", prompt}, {"seconds", seconds}, {"flop", flop}});
    return absl::OkStatus();
  }

  const Options options_;
  double bandwidth_ = 0;
  std::unique_ptr<BenchModel> model_;
  boost::json::array cells_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app{"Steps of a model with random weights on the GPU, against what they must move"};
  app.add_option("--shape", options.shape, "Shape (fathom-worker bench --help lists them)");
  app.add_option("--dtype", options.dtype, "bf16 (default) or f16");
  app.add_option("--batch", options.batches, "Batches of decode")->delimiter(',');
  app.add_option("--context", options.contexts, "Contexts of decode")->delimiter(',');
  app.add_option("--prompt", options.prompts, "Prompts of prefill")->delimiter(',');
  app.add_option("--step-tokens", options.step_tokens, "Tokens of a prefill chunk at most");
  app.add_option("--steps", options.steps, "Decode steps a round");
  app.add_option("--rounds", options.rounds, "Rounds; the median counts");
  app.add_flag("--batch-invariant", options.batch_invariant,
               "The mode whose results do not depend on the batch");
  app.add_option("--peak-tflops", options.peak_tflops, "What the products are held against");
  app.add_option("--json", options.json, "File for the figures");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Bench(options).Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "engine_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace fathom::benchmarks

int main(int argc, char** argv) { return fathom::benchmarks::Main(argc, argv); }
