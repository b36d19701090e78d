#include "worker/bench/bench_run.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/memory_probe.h"
#include "worker/bench/bench_model.h"
#include "worker/bench/onednn_peer.h"
#include "worker/bench/work_count.h"
#include "worker/memory_budget.h"

namespace fathom::worker {
namespace {

constexpr size_t kLeastPairs = 3;
constexpr int kProbesAtStart = 5;
constexpr double kUsableMemory = 0.9;
// oneDNN's OpenMP threads spin for a while after their work; ours shall not pay for that.
constexpr absl::Duration kPeerCalmsDown = absl::Milliseconds(10);

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

ModelOptions ModelOptionsOf(const BenchOptions& options) {
  ModelOptions model;
  model.path = options.model;
  model.dummy_shape = options.shape;
  if (options.dtype == "bf16") model.compute_dtype = DType::kBF16;
  if (options.dtype == "f32") model.compute_dtype = DType::kF32;
  model.threads = options.threads;
  model.batch_invariant = options.batch_invariant;
  return model;
}

class Bench {
 public:
  Bench(const BenchOptions& options, const std::function<void(const std::string&)>& on_progress)
      : options_(options), on_progress_(on_progress), start_(clock_.Monotonic()) {
    for (const int32_t context : options.contexts) {
      for (const int32_t batch : options.batches) cases_.push_back({batch, context});
    }
  }

  absl::StatusOr<BenchResult> Run() {
    RETURN_IF_ERROR(Prepare());
    size_t cell = 0;
    const size_t cells = cases_.size() + options_.prompts.size();
    const auto time_left = [&](const std::string& what) {
      ++cell;
      if (clock_.Monotonic() - start_ > options_.limit) {
        ++result_.left_out;
        return false;
      }
      on_progress_(absl::StrFormat("[%d/%d] %s", cell, cells, what));
      return true;
    };
    for (const DecodeCase& one : cases_) {
      if (!time_left(absl::StrCat("decode, batch ", one.batch, ", context ", one.context)))
        continue;
      RETURN_IF_ERROR(MeasureDecode(one));
    }
    for (const int32_t prompt : options_.prompts) {
      if (!time_left(absl::StrCat("prefill, ", prompt, " tokens"))) continue;
      RETURN_IF_ERROR(MeasurePrefill(prompt));
    }
    return std::move(result_);
  }

 private:
  absl::Status Prepare() {
    on_progress_("measuring memory");
    ASSIGN_OR_RETURN(probe_, kernels::cpu::MemoryProbe::Create(options_.threads));
    result_.threads = probe_->num_threads();
    result_.probe_bytes = probe_->bytes();
    std::vector<double> one;
    std::vector<double> all;
    for (int i = 0; i < kProbesAtStart; ++i) {
      one.push_back(probe_->OneThread());
      all.push_back(probe_->AllThreads());
    }
    result_.read_one_thread = Median(one);
    result_.read_all_threads = Median(all);

    on_progress_("loading the model");
    const absl::Duration before = clock_.Monotonic();
    ASSIGN_OR_RETURN(const int64_t free_bytes, FreeMemoryBytes());
    ASSIGN_OR_RETURN(
        model_,
        BenchModel::Create(ModelOptionsOf(options_), cases_, options_.prompts,
                           static_cast<int64_t>(kUsableMemory * static_cast<double>(free_bytes))));
    result_.load_seconds = absl::ToDoubleSeconds(clock_.Monotonic() - before);
    const bool stored_as_bf16 = options_.shape.empty() && model_->config().dtype == DType::kBF16;
    weights_dtype_ = stored_as_bf16 ? DType::kBF16 : model_->kv_dtype();
    peer_.emplace(result_.threads, model_->kv_dtype());
    result_.peer_dtype = Name(peer_->dtype());
    const std::filesystem::path path(options_.model);
    result_.model = options_.shape.empty()
                        ? (path.has_filename() ? path : path.parent_path()).filename().string()
                        : options_.shape;
    result_.weights = options_.shape.empty() ? "checkpoint" : "random";
    result_.dtype = Name(model_->kv_dtype());
    result_.processor = ProcessorName();
    result_.isa = kernels::cpu::Name(*kernels::cpu::DetectIsa());
    result_.batch_invariant = options_.batch_invariant;
    return absl::OkStatus();
  }

  template <typename Fn>
  absl::StatusOr<double> Seconds(const Fn& fn) {
    const absl::Duration before = clock_.Monotonic();
    RETURN_IF_ERROR(fn());
    return absl::ToDoubleSeconds(clock_.Monotonic() - before);
  }

  // Whether one more pair belongs to the cell that began at `start`.
  bool GoOn(size_t pairs, absl::Duration start) const {
    const absl::Duration now = clock_.Monotonic();
    if (pairs == 0) return true;
    if (now - start_ > options_.limit) return false;
    return pairs < kLeastPairs || now - start < options_.per_cell;
  }

  absl::Status MeasureDecode(const DecodeCase& one) {
    DecodeResult cell;
    cell.batch = one.batch;
    cell.context = one.context;
    cell.bytes =
        DecodeBytes(model_->config(), weights_dtype_, model_->kv_dtype(), one.batch, one.context);
    RETURN_IF_ERROR(model_->Decode(one));  // warms up
    std::vector<double> seconds;
    std::vector<double> shares;
    for (const absl::Duration start = clock_.Monotonic(); GoOn(seconds.size(), start);) {
      ASSIGN_OR_RETURN(const double took, Seconds([&] { return model_->Decode(one); }));
      seconds.push_back(took);
      shares.push_back(static_cast<double>(cell.bytes) / took / probe_->AllThreads());
    }
    cell.steps = static_cast<int32_t>(seconds.size());
    cell.seconds = Median(std::move(seconds));
    cell.of_read_bandwidth = Median(std::move(shares));
    result_.decode.push_back(cell);
    return absl::OkStatus();
  }

  absl::Status MeasurePrefill(int32_t prompt) {
    PrefillResult cell;
    cell.prompt = prompt;
    cell.flop = PrefillFlop(model_->config(), prompt);
    const std::vector<MatrixShape> matrices = LayerMatrices(model_->config());
    const int32_t rows = std::min(prompt, model_->step_tokens());
    RETURN_IF_ERROR(model_->Prefill(prompt));  // warms up
    std::vector<double> seconds;
    std::vector<double> peers;
    std::vector<double> shares;
    for (const absl::Duration start = clock_.Monotonic(); GoOn(seconds.size(), start);) {
      ASSIGN_OR_RETURN(const double took, Seconds([&] { return model_->Prefill(prompt); }));
      ASSIGN_OR_RETURN(const double peer, peer_->FlopPerSecond(matrices, rows));
      absl::SleepFor(kPeerCalmsDown);
      seconds.push_back(took);
      peers.push_back(peer);
      shares.push_back(static_cast<double>(cell.flop) / took / peer);
    }
    cell.runs = static_cast<int32_t>(seconds.size());
    cell.seconds = Median(std::move(seconds));
    cell.peer_flop_per_second = Median(std::move(peers));
    cell.of_peer = Median(std::move(shares));
    result_.prefill.push_back(cell);
    return absl::OkStatus();
  }

  const BenchOptions& options_;
  const std::function<void(const std::string&)>& on_progress_;
  const Clock& clock_ = *Clock::Real();
  const absl::Duration start_;
  std::vector<DecodeCase> cases_;
  std::unique_ptr<kernels::cpu::MemoryProbe> probe_;
  std::unique_ptr<BenchModel> model_;
  std::optional<OneDnnPeer> peer_;
  DType weights_dtype_ = DType::kF32;
  BenchResult result_;
};

}  // namespace

absl::StatusOr<BenchResult> RunBench(const BenchOptions& options,
                                     const std::function<void(const std::string&)>& on_progress) {
  return Bench(options, on_progress).Run();
}

}  // namespace fathom::worker
