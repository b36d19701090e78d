// Attention on the GPU alone, at the shape of an 8B model: decode by what it reads of the cache
// against what memory can deliver, prefill by the arithmetic of the causal half. Each figure is the
// median over replays of a graph of many launches. Decode launches rotate among caches that
// together are many times the L2; all data is random. Three rows compare ways to rotate and write
// the step's own keys as well, by the same bytes: `pair` as an operation before attention, `fused`
// into it, and `ahead` fused and free to read the cache while the launch before it still runs.

#include <cuda_runtime.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "benchmarks/gpu/ceilings.h"
#include "kernels/bfloat16.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/row_ops.h"

namespace fathom::benchmarks {
namespace {

using kernels::PagedAttentionArgs;
using kernels::SequenceSpan;

constexpr size_t kColdBytes = size_t{512} << 20;
constexpr size_t kRandomCount = size_t{8} << 20;
constexpr int32_t kReplays = 15;

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "attention_bench: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

struct Options {
  int32_t q_heads = 32;
  int32_t kv_heads = 8;
  int32_t head_dim = 128;
  int32_t block_tokens = 16;
  std::vector<std::string> decode = {"1x1024",   "8x1024",  "32x1024", "64x1024", "128x1024",
                                     "256x1024", "32x4096", "1x65536", "16x16384"};
  std::vector<std::string> fused = {"1x1024", "32x1024", "256x1024"};
  std::vector<int32_t> prefill = {2048, 8192, 16384};
  bool ragged = false;
  bool norms = false;
  std::string json;
};

// What is launched for one layer of a step.
enum class Work { kAttention, kPair, kFused, kAhead };

constexpr const char* Name(Work work) {
  switch (work) {
    case Work::kAttention:
      return "decode";
    case Work::kPair:
      return "pair";
    case Work::kFused:
      return "fused";
    case Work::kAhead:
      return "ahead";
  }
  return "?";
}

struct Freed {
  void operator()(void* p) const { cudaFree(p); }
};

class DeviceArray {
 public:
  explicit DeviceArray(size_t bytes) {
    void* data = nullptr;
    Check(cudaMalloc(&data, bytes));
    data_.reset(data);
  }
  template <typename T>
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size() * sizeof(T)) {
    Check(cudaMemcpy(data_.get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void* data() const { return data_.get(); }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data_.get());
  }

 private:
  std::unique_ptr<void, Freed> data_;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options), random_(1) {
    cudaDeviceProp properties;
    Check(cudaGetDeviceProperties(&properties, 0));
    hints_.num_multiprocessors = properties.multiProcessorCount;
    std::normal_distribution<float> normal;
    noise_.resize(kRandomCount);
    for (BFloat16& v : noise_) v = ToBFloat16(normal(random_));
    workspace_bytes_ = kernels::cuda::AttentionWorkspaceBytes(hints_.num_multiprocessors);
    workspace_ = std::make_unique<DeviceArray>(workspace_bytes_);
    Check(cudaMemset(workspace_->data(), 0xFF, workspace_bytes_));
    Check(kernels::cuda::PrepareAttention());
    Check(cudaStreamCreate(&stream_));
    Check(MeasureReadBandwidth(&bandwidth_));
    std::printf("%s, read bandwidth %.0f GB/s\n", properties.name, bandwidth_ / 1e9);
    json_ = "{\"device\": \"" + std::string(properties.name) +
            "\", \"read_bandwidth\": " + std::to_string(bandwidth_) + ", \"cells\": [";
  }

  void Decode(int32_t batch, int32_t context, std::initializer_list<Work> works) {
    std::vector<int32_t> contexts(batch, context - 1);
    if (options_.ragged) {
      std::uniform_int_distribution<int32_t> length(0, 2 * (context - 1));
      for (int32_t& c : contexts) c = length(random_);
    }
    double bytes = 0;
    for (const int32_t c : contexts) bytes += (c + 1.0) * KvBytesPerToken();
    const auto rotations = static_cast<int32_t>(kColdBytes / bytes) + 1;
    Case one(*this, contexts, std::vector<int32_t>(batch, 1), rotations);
    for (const Work work : works) {
      const double seconds = one.Seconds(std::max(rotations, 8), work);
      std::printf("%-7s %5d x %6d %9.1f us %8.0f GB/s %6.1f %%\n", Name(work), batch, context,
                  seconds * 1e6, bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth_);
      Record(Name(work), batch, context, seconds, bytes / seconds / bandwidth_);
    }
  }

  void Prefill(int32_t prompt) {
    Case one(*this, {0}, {prompt}, 1);
    const double seconds = one.Seconds(4, Work::kAttention);
    const double flop = 4.0 * prompt * prompt / 2 * options_.head_dim * options_.q_heads;
    std::printf("prefill %5d x %6d %9.1f us %8.0f TFLOP/s\n", 1, prompt, seconds * 1e6,
                flop / seconds / 1e12);
    Record("prefill", 1, prompt, seconds, flop / seconds / 1e12);
  }

  void WriteJson() {
    if (options_.json.empty()) return;
    std::FILE* file = std::fopen(options_.json.c_str(), "w");
    if (file == nullptr) {
      std::fprintf(stderr, "attention_bench: cannot write %s\n", options_.json.c_str());
      std::exit(1);
    }
    std::fprintf(file, "%s]}\n", json_.c_str());
    std::fclose(file);
  }

 private:
  // A batch over `rotations` caches.
  class Case {
   public:
    Case(Bench& bench, const std::vector<int32_t>& contexts, const std::vector<int32_t>& queries,
         int32_t rotations)
        : bench_(bench) {
      const Options& options = bench.options_;
      std::vector<SequenceSpan> spans;
      int32_t tokens = 0;
      int32_t max_blocks = 0;
      for (size_t i = 0; i < contexts.size(); ++i) {
        spans.push_back({static_cast<int32_t>(i), tokens, queries[i], contexts[i]});
        tokens += queries[i];
        max_blocks =
            std::max(max_blocks, (contexts[i] + queries[i] - 1) / options.block_tokens + 1);
      }
      const size_t entries = spans.size() * max_blocks;
      std::vector<int32_t> tables(entries * rotations);
      std::iota(tables.begin(), tables.end(), 0);
      std::ranges::shuffle(tables, bench.random_);
      const int64_t block_bytes =
          static_cast<int64_t>(bench.KvBytesPerToken()) * options.block_tokens;
      arena_ = bench.Noise(tables.size() * block_bytes);
      qkv_ = bench.Noise(static_cast<size_t>(tokens) * (options.q_heads + 2 * options.kv_heads) *
                         options.head_dim * sizeof(BFloat16));
      out_ = std::make_unique<DeviceArray>(static_cast<size_t>(tokens) * options.q_heads *
                                           options.head_dim * sizeof(BFloat16));
      spans_ = std::make_unique<DeviceArray>(spans);
      tables_ = std::make_unique<DeviceArray>(tables);
      std::vector<int32_t> slots(tokens);
      std::iota(slots.begin(), slots.end(), 0);
      slots_ = std::make_unique<DeviceArray>(slots);
      positions_ = std::make_unique<DeviceArray>(contexts);
      norms_ = std::make_unique<DeviceArray>(std::vector<float>(options.head_dim, 1.0F));
      cos_sin_ = std::make_unique<DeviceArray>(CosSin(tokens, options.head_dim / 2));
      PagedAttentionArgs args;
      args.out = out_->data();
      args.qkv = qkv_->data();
      args.sequences = spans_->as<SequenceSpan>();
      args.kv.arena = arena_->data();
      args.kv.block_bytes = block_bytes;
      args.kv.value_offset = block_bytes / 2;
      args.kv.max_blocks = max_blocks;
      args.kv.block_tokens = options.block_tokens;
      args.kv.num_kv_heads = options.kv_heads;
      args.kv.head_dim = options.head_dim;
      args.num_sequences = static_cast<int32_t>(spans.size());
      args.num_tokens = tokens;
      args.num_q_heads = options.q_heads;
      args.scale = 0.088F;
      args.dtype = DType::kBF16;
      for (int32_t i = 0; i < rotations; ++i) {
        args.kv.block_tables = tables_->as<int32_t>() + i * entries;
        args_.push_back(args);
      }
      hints_ = bench.hints_;
      hints_.max_query_len = *std::ranges::max_element(queries);
      hints_.num_decodes = static_cast<int32_t>(std::ranges::count(queries, 1));
    }

    // Of one launch, in a graph of so many.
    double Seconds(int32_t launches, Work work) {
      cudaGraph_t graph;
      cudaGraphExec_t exec;
      cudaEvent_t begin;
      cudaEvent_t end;
      cudaStream_t stream = bench_.stream_;
      Check(cudaEventCreate(&begin));
      Check(cudaEventCreate(&end));
      Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      for (int32_t i = 0; i < launches; ++i) {
        Launch(args_[i % args_.size()], work);
      }
      Check(cudaStreamEndCapture(stream, &graph));
      Check(cudaGraphInstantiate(&exec, graph, 0));
      Check(cudaGraphLaunch(exec, stream));
      std::vector<float> took(kReplays);
      for (float& milliseconds : took) {
        Check(cudaEventRecord(begin, stream));
        Check(cudaGraphLaunch(exec, stream));
        Check(cudaEventRecord(end, stream));
        Check(cudaEventSynchronize(end));
        Check(cudaEventElapsedTime(&milliseconds, begin, end));
      }
      Check(cudaGraphExecDestroy(exec));
      Check(cudaGraphDestroy(graph));
      Check(cudaEventDestroy(begin));
      Check(cudaEventDestroy(end));
      std::ranges::nth_element(took, took.begin() + kReplays / 2);
      return took[kReplays / 2] * 1e-3 / launches;
    }

   private:
    // Angles of 1: queries that are rotated again and again stay as long as they are.
    static std::vector<float> CosSin(int32_t tokens, int32_t half_dim) {
      std::vector<float> row(static_cast<size_t>(half_dim) * 2, std::cos(1.0F));
      std::fill(row.begin() + half_dim, row.end(), std::sin(1.0F));
      std::vector<float> rows;
      for (int32_t i = 0; i < tokens; ++i) rows.insert(rows.end(), row.begin(), row.end());
      return rows;
    }

    void Launch(PagedAttentionArgs args, Work work) {
      kernels::RotaryKvWriteArgs write;
      write.qkv = qkv_->data();
      write.cos_sin = cos_sin_->as<float>();
      write.q_norm_weight = bench_.options_.norms ? norms_->as<float>() : nullptr;
      write.k_norm_weight = write.q_norm_weight;
      write.token_slots = slots_->as<int32_t>();
      write.kv_positions = positions_->as<int32_t>();
      write.kv = args.kv;
      write.num_tokens = args.num_tokens;
      write.num_q_heads = args.num_q_heads;
      write.norm_eps = 1e-6F;
      write.dtype = args.dtype;
      if (work == Work::kPair) Check(kernels::cuda::LaunchRotaryKvWrite(write, bench_.stream_));
      if (work == Work::kFused || work == Work::kAhead) {
        args.max_query_len = 1;
        args.rotary = {write.cos_sin, write.q_norm_weight, write.k_norm_weight, write.norm_eps};
      }
      kernels::cuda::AttentionHints hints = hints_;
      hints.settled = work == Work::kAhead;
      Check(kernels::cuda::LaunchPagedAttention(args, hints, bench_.workspace_->data(),
                                                bench_.workspace_bytes_, bench_.stream_));
    }

    Bench& bench_;
    std::unique_ptr<DeviceArray> arena_;
    std::unique_ptr<DeviceArray> qkv_;
    std::unique_ptr<DeviceArray> out_;
    std::unique_ptr<DeviceArray> spans_;
    std::unique_ptr<DeviceArray> tables_;
    std::unique_ptr<DeviceArray> slots_;
    std::unique_ptr<DeviceArray> positions_;
    std::unique_ptr<DeviceArray> norms_;
    std::unique_ptr<DeviceArray> cos_sin_;
    std::vector<PagedAttentionArgs> args_;
    kernels::cuda::AttentionHints hints_;
  };

  double KvBytesPerToken() const {
    return 2.0 * options_.kv_heads * options_.head_dim * sizeof(BFloat16);
  }

  std::unique_ptr<DeviceArray> Noise(size_t bytes) const {
    auto array = std::make_unique<DeviceArray>(bytes);
    const size_t noise_bytes = noise_.size() * sizeof(BFloat16);
    for (size_t at = 0; at < bytes; at += noise_bytes) {
      Check(cudaMemcpy(static_cast<char*>(array->data()) + at, noise_.data(),
                       std::min(noise_bytes, bytes - at), cudaMemcpyHostToDevice));
    }
    return array;
  }

  void Record(const char* kind, int32_t batch, int32_t length, double seconds, double rate) {
    char line[256];
    std::snprintf(line, sizeof(line),
                  "%s{\"kind\": \"%s\", \"batch\": %d, \"length\": %d, \"seconds\": %.9g, "
                  "\"%s\": %.6g}",
                  json_.back() == '[' ? "" : ", ", kind, batch, length, seconds,
                  std::string(kind) == "prefill" ? "tflops" : "of_bandwidth", rate);
    json_ += line;
    std::fflush(stdout);
  }

  const Options options_;
  std::mt19937 random_;
  std::vector<BFloat16> noise_;
  kernels::cuda::AttentionHints hints_;
  size_t workspace_bytes_ = 0;
  std::unique_ptr<DeviceArray> workspace_;
  cudaStream_t stream_ = nullptr;
  double bandwidth_ = 0;
  std::string json_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app{"Attention over a paged BF16 cache on the GPU"};
  app.add_option("--q-heads", options.q_heads, "Query heads");
  app.add_option("--kv-heads", options.kv_heads, "Key heads");
  app.add_option("--head-dim", options.head_dim, "Head dimension");
  app.add_option("--block-tokens", options.block_tokens, "Tokens in a block of the cache");
  app.add_option("--decode", options.decode, "Decode cases, BATCHxCONTEXT")->delimiter(',');
  app.add_option("--fused", options.fused, "Decode cases with the rotation, BATCHxCONTEXT")
      ->delimiter(',');
  app.add_option("--prefill", options.prefill, "Prompts of prefill")->delimiter(',');
  app.add_flag("--ragged", options.ragged, "Decode contexts spread evenly from 1 to twice as much");
  app.add_flag("--norms", options.norms,
               "With norms of queries and keys in those with the rotation");
  app.add_option("--json", options.json, "File for the figures");
  CLI11_PARSE(app, argc, argv);
  Bench bench(options);
  const auto decode = [&](const std::string& one, std::initializer_list<Work> works) {
    int batch = 0;
    int context = 0;
    if (std::sscanf(one.c_str(), "%dx%d", &batch, &context) != 2 || batch < 1 || context < 1) {
      std::fprintf(stderr, "attention_bench: '%s' is no BATCHxCONTEXT\n", one.c_str());
      std::exit(1);
    }
    bench.Decode(batch, context, works);
  };
  for (const std::string& one : options.decode) decode(one, {Work::kAttention});
  for (const std::string& one : options.fused) {
    decode(one, {Work::kPair, Work::kFused, Work::kAhead});
  }
  for (const int32_t prompt : options.prefill) bench.Prefill(prompt);
  bench.WriteJson();
  return 0;
}

}  // namespace
}  // namespace fathom::benchmarks

int main(int argc, char** argv) { return fathom::benchmarks::Main(argc, argv); }
