// Microseconds a launch of the sampling kernels takes, against the time that reading the logits
// once takes at the bandwidth measured in the same run. Launches are replayed from a graph over
// rotating logits, so neither launch gaps nor a warm cache flatter the result.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/cuda/sampling.h"
#include "kernels/philox.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kLaunches = 32;
constexpr int32_t kReplays = 11;
constexpr int32_t kHistory = 500;
constexpr int32_t kLogprobs = 20;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename V>
V* Allocate(size_t count) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, count * sizeof(V)), "cudaMalloc");
  return static_cast<V*>(memory);
}

template <typename V>
V* Upload(const std::vector<V>& values) {
  V* memory = Allocate<V>(values.size());
  Check(cudaMemcpy(memory, values.data(), values.size() * sizeof(V), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  return memory;
}

__global__ void ReadAll(const float4* data, size_t count, float* out) {
  float sum = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += 4 * stride) {
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      v[j] = i + j * stride < count ? data[i + j * stride] : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += v[j].x + v[j].y + v[j].z + v[j].w;
  }
  if (sum == 12345.678F) *out = sum;  // never, but the compiler must not know
}

__device__ void Store(float* p, float v) { *p = v; }
__device__ void Store(BFloat16* p, float v) {
  p->bits = static_cast<uint16_t>(__float_as_uint(v) >> 16);
}

// Normal logits; `peaked`: twenty of them raised, as a model that has an opinion raises them.
template <typename T>
__global__ void FillLogits(T* logits, int32_t vocab, bool peaked) {
  const int32_t row = blockIdx.x;
  for (int32_t id = threadIdx.x; id < vocab; id += blockDim.x) {
    const Philox4x32 r = SamplingDraws(7, 0, row, id);
    const float u = (static_cast<float>(r.v[0]) + 1) * 0x1p-32F;
    float x = 2.5F * sqrtf(-2 * logf(u)) * cospif(static_cast<float>(r.v[1]) * 0x1p-31F);
    const int32_t nth = (id + 977 * row) % vocab;
    if (peaked && nth % (vocab / 20) == 17) x += 18.0F - static_cast<float>(nth / (vocab / 20));
    Store(logits + static_cast<size_t>(row) * vocab + id, x);
  }
}

struct Mode {
  const char* name;
  bool peaked;
  float temperature;
  int32_t top_k;
  float top_p;
  float min_p;
  bool extras;  // penalties over a history, a mask, log-probabilities
};

constexpr Mode kModes[] = {
    {"greedy", true, 0, 0, 1, 0, false},
    {"temperature", true, 1, 0, 1, 0, false},
    {"temperature, flat", false, 1, 0, 1, 0, false},
    {"top-k 50 top-p 0.95", true, 1, 50, 0.95F, 0, false},
    {"top-k 50 top-p 0.95, flat", false, 1, 50, 0.95F, 0, false},
    {"top-p 0.9", true, 1, 0, 0.9F, 0, false},
    {"top-p 0.9, flat", false, 1, 0, 0.9F, 0, false},
    {"min-p 0.05", true, 1, 0, 1, 0.05F, false},
    {"all: penalties mask logprobs", true, 1, 50, 0.95F, 0, true},
};

// Runs what `capture` records on a stream; microseconds of one of its `launches`.
template <typename Capture>
double MicrosPerLaunch(int32_t launches, const Capture& capture) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t begin;
  cudaEvent_t end;
  Check(cudaStreamCreate(&stream), "stream");
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  capture(stream);
  Check(cudaStreamEndCapture(stream, &graph), "end of capture");
  Check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  std::vector<float> times;
  for (int32_t i = 0; i < kReplays + 2; ++i) {
    Check(cudaEventRecord(begin, stream), "record");
    Check(cudaGraphLaunch(exec, stream), "graph launch");
    Check(cudaEventRecord(end, stream), "record");
    Check(cudaStreamSynchronize(stream), "run");
    float millis = 0;
    Check(cudaEventElapsedTime(&millis, begin, end), "elapsed");
    if (i >= 2) times.push_back(millis);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return 1000.0 * times[times.size() / 2] / launches;
}

double ReadBytesPerMicro() {
  constexpr size_t kBytes = size_t{2} << 30;
  float* data = Allocate<float>(kBytes / 4);
  float* out = Allocate<float>(1);
  Check(cudaMemset(data, 0x3C, kBytes), "memset");
  const double micros = MicrosPerLaunch(1, [&](cudaStream_t stream) {
    ReadAll<<<132 * 8, 512, 0, stream>>>(reinterpret_cast<const float4*>(data), kBytes / 16, out);
  });
  cudaFree(data);
  cudaFree(out);
  return kBytes / micros;
}

// Device memory of one mode over one pool of logits.
struct Inputs {
  std::vector<void*> owned;
  std::vector<SamplingRow*> sets;  // each [batch], over other logits
};

Inputs MakeInputs(const Mode& mode, int32_t vocab, int32_t batch, int32_t pool_rows) {
  Inputs inputs;
  const int32_t num_sets = std::clamp(pool_rows / batch, 1, kLaunches);
  const int32_t words = (vocab + 31) / 32;
  TokenCount* counts = nullptr;
  int32_t* num_counts = nullptr;
  uint32_t* masks = nullptr;
  if (mode.extras) {
    std::vector<TokenCount> history(static_cast<size_t>(batch) * kHistory);
    for (size_t i = 0; i < history.size(); ++i) {
      // A prime step visits distinct ids.
      history[i] = {static_cast<int32_t>(i % kHistory * 61 % vocab), 1,
                    static_cast<int32_t>(i % 3)};
    }
    counts = Upload(history);
    num_counts = Upload(std::vector<int32_t>(batch, kHistory));
    std::vector<uint32_t> mask(static_cast<size_t>(batch) * words);
    for (size_t i = 0; i < mask.size(); ++i) {
      mask[i] = SamplingDraws(3, 0, 0, static_cast<uint32_t>(i)).v[0] | 0x5A5A5A5AU;
    }
    masks = Upload(mask);
    inputs.owned = {counts, num_counts, masks};
  }
  for (int32_t set = 0; set < num_sets; ++set) {
    std::vector<SamplingRow> rows(batch);
    for (int32_t i = 0; i < batch; ++i) {
      SamplingRow& r = rows[i];
      std::memset(&r, 0, sizeof(r));
      r.logit_row = (set * batch + i) % pool_rows;
      r.slot = i;
      r.seed = 1234 + i;
      r.position = set;
      r.temperature = mode.temperature;
      r.top_k = mode.top_k;
      r.top_p = mode.top_p;
      r.min_p = mode.min_p;
      r.repetition_penalty = 1;
      r.num_logprobs = -1;
      if (!mode.extras) continue;
      r.repetition_penalty = 1.1F;
      r.presence_penalty = 0.2F;
      r.frequency_penalty = 0.1F;
      r.num_logprobs = kLogprobs;
      r.counts = counts + static_cast<size_t>(i) * kHistory;
      r.counts_capacity = kHistory;
      r.num_counts = num_counts + i;
      r.mask = masks + static_cast<size_t>(i) * words;
    }
    inputs.sets.push_back(Upload(rows));
    inputs.owned.push_back(inputs.sets.back());
  }
  return inputs;
}

struct Measured {
  std::string mode;
  const char* dtype;
  int32_t vocab;
  int32_t batch;
  double micros;
  double floor;
};

class Bench {
 public:
  explicit Bench(double bytes_per_micro) : bytes_per_micro_(bytes_per_micro) {}

  template <typename T>
  void Run(DType dtype, int32_t vocab) {
    constexpr int32_t kBatches[] = {1, 32, 256};
    constexpr int32_t kPoolRows = 768;
    T* logits = Allocate<T>(static_cast<size_t>(kPoolRows) * vocab);
    const size_t workspace_bytes = SamplingWorkspaceBytes(256, vocab);
    auto* workspace = Allocate<uint8_t>(workspace_bytes);
    SamplingArgs args{};
    args.logits = logits;
    args.num_logit_rows = kPoolRows;
    args.vocab = vocab;
    args.max_logprobs = kLogprobs;
    args.slot_tokens = Allocate<int32_t>(256);
    args.tokens = Allocate<int32_t>(256);
    args.status = Allocate<uint8_t>(256);
    args.logprobs = Allocate<float>(256);
    args.top_tokens = Allocate<int32_t>(256 * kLogprobs);
    args.top_logprobs = Allocate<float>(256 * kLogprobs);
    args.logits_dtype = dtype;
    for (const Mode& mode : kModes) {
      FillLogits<<<kPoolRows, 512>>>(logits, vocab, mode.peaked);
      Check(cudaDeviceSynchronize(), "fill");
      for (const int32_t batch : kBatches) {
        const Inputs inputs = MakeInputs(mode, vocab, batch, kPoolRows);
        args.num_rows = batch;
        const double micros = MicrosPerLaunch(kLaunches, [&](cudaStream_t stream) {
          for (int32_t i = 0; i < kLaunches; ++i) {
            args.rows = inputs.sets[i % inputs.sets.size()];
            Check(LaunchSampleTokens(args, nullptr, workspace, workspace_bytes, stream), "sample");
          }
        });
        Add({mode.name, Name(dtype), vocab, batch, micros,
             static_cast<double>(batch) * vocab * sizeof(T) / bytes_per_micro_});
        for (void* p : inputs.owned) cudaFree(p);
      }
    }
    for (void* p : {static_cast<void*>(logits), static_cast<void*>(workspace),
                    static_cast<void*>(args.slot_tokens), static_cast<void*>(args.tokens),
                    static_cast<void*>(args.status), static_cast<void*>(args.logprobs),
                    static_cast<void*>(args.top_tokens), static_cast<void*>(args.top_logprobs)}) {
      cudaFree(p);
    }
  }

  void WriteJson(const char* path, const char* device) const {
    std::FILE* file = std::fopen(path, "w");
    if (file == nullptr) {
      std::fprintf(stderr, "cannot write %s\n", path);
      std::exit(1);
    }
    std::fprintf(file, "{\"device\": \"%s\", \"read_gb_per_s\": %.1f, \"results\": [\n", device,
                 bytes_per_micro_ / 1000);
    for (size_t i = 0; i < results_.size(); ++i) {
      const Measured& m = results_[i];
      std::fprintf(file,
                   "{\"mode\": \"%s\", \"dtype\": \"%s\", \"vocab\": %d, \"batch\": %d, \"us\": "
                   "%.2f, \"floor_us\": %.2f}%s\n",
                   m.mode.c_str(), m.dtype, m.vocab, m.batch, m.micros, m.floor,
                   i + 1 < results_.size() ? "," : "");
    }
    std::fprintf(file, "]}\n");
    std::fclose(file);
  }

 private:
  void Add(const Measured& m) {
    std::printf("%-4s %7d %5d  %-30s %8.2f %8.2f %6.2f\n", m.dtype, m.vocab, m.batch,
                m.mode.c_str(), m.micros, m.floor, m.micros / m.floor);
    results_.push_back(m);
  }

  const double bytes_per_micro_;
  std::vector<Measured> results_;
};

constexpr char kHelp[] =
    "sampling_bench [--json FILE] [--quick]\n"
    "Time of one sampling launch for batches of 1, 32 and 256 rows over several vocabularies and\n"
    "kinds of rows, beside the time of reading the logits once.\n"
    "  --json FILE  write the numbers there too\n"
    "  --quick      a vocabulary of 128 Ki alone\n";

int Main(int argc, char** argv) {
  const char* json = nullptr;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--quick") {
      quick = true;
    } else if (arg == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      std::fputs(kHelp, arg == "--help" ? stdout : stderr);
      return arg == "--help" ? 0 : 2;
    }
  }
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "device");
  Bench bench(ReadBytesPerMicro());
  std::printf("%-4s %7s %5s  %-30s %8s %8s %6s\n", "type", "vocab", "batch", "rows", "us", "floor",
              "ratio");
  const std::vector<int32_t> vocabs =
      quick ? std::vector<int32_t>{131072} : std::vector<int32_t>{32000, 131072, 152064};
  for (const int32_t vocab : vocabs) {
    bench.Run<float>(DType::kF32, vocab);
    bench.Run<BFloat16>(DType::kBF16, vocab);
  }
  std::printf("%s\n", properties.name);
  if (json != nullptr) bench.WriteJson(json, properties.name);
  return 0;
}

}  // namespace
}  // namespace fathom::kernels::cuda

int main(int argc, char** argv) { return fathom::kernels::cuda::Main(argc, argv); }
