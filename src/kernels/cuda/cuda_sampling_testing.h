#pragma once

// Rows of all kinds for the tests of sampling on the GPU, on the host for the CPU's oracle and on
// the device for what is tested. Thread safety: none.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/sampling_args.h"

namespace fathom::kernels::cuda {

inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline bool HasGpu() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

inline void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::abort();
}

template <typename V>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    void* data = nullptr;
    Check(cudaMalloc(&data, std::max<size_t>(size, 1) * sizeof(V)));
    data_ = static_cast<V*>(data);
    Check(cudaMemset(data_, 0xEE, size * sizeof(V)));  // what is not written shows
  }
  explicit DeviceArray(std::span<const V> values) : DeviceArray(values.size()) {
    Check(cudaMemcpy(data_, values.data(), size_ * sizeof(V), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  V* get() const { return data_; }
  std::vector<V> Read() const {
    std::vector<V> values(size_);
    Check(cudaMemcpy(values.data(), data_, size_ * sizeof(V), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  size_t size_;
  V* data_ = nullptr;
};

// One row and what its pointers point to, on the host.
struct TestRow {
  std::vector<float> logits;
  SamplingRow row{};
  std::vector<int32_t> bias_tokens;
  std::vector<float> bias_values;
  std::vector<int32_t> banned;
  std::vector<uint32_t> mask;
  std::vector<TokenCount> counts;  // [capacity]
  int32_t num_counts = 0;

  TestRow() {
    row.top_p = 1;
    row.repetition_penalty = 1;
    row.num_logprobs = -1;
  }
  // After this the row may move, but not be copied.
  void Link() {
    row.bias_tokens = bias_tokens.data();
    row.bias_values = bias_values.data();
    row.num_bias = static_cast<int32_t>(bias_tokens.size());
    row.banned = banned.data();
    row.num_banned = static_cast<int32_t>(banned.size());
    row.mask = mask.empty() ? nullptr : mask.data();
    row.counts = counts.empty() ? nullptr : counts.data();
    row.num_counts = &num_counts;
    row.counts_capacity = static_cast<int32_t>(counts.size());
  }
};

template <typename V>
V OneOf(std::mt19937& random, std::initializer_list<V> values) {
  return *(values.begin() + random() % values.size());
}

inline std::vector<float> RandomLogits(std::mt19937& random, int32_t vocab) {
  std::vector<float> x(vocab);
  std::normal_distribution<float> normal(0, OneOf(random, {0.0F, 0.1F, 1.0F, 2.5F, 10.0F}));
  for (float& v : x) v = normal(random);
  switch (random() % 6) {
    case 0:  // as a sure model's
      for (int i = 0; i < 20; ++i) x[random() % vocab] += 14.0F - static_cast<float>(i) / 2;
      break;
    case 1:  // ties everywhere
      for (float& v : x) v = std::round(v * 2) / 2;
      break;
    case 2:  // most tokens impossible
      for (float& v : x) v = random() % 8 != 0 ? -kInf : v;
      break;
    case 3:
      x[vocab - 1] = 30;
      break;
    default:
      break;
  }
  if (random() % 25 == 0) x[random() % vocab] = OneOf(random, {NAN, -NAN, kInf});
  return x;
}

inline void AddHistory(std::mt19937& random, int32_t vocab, TestRow* r) {
  std::vector<int32_t> ids;
  const int32_t wanted = std::min<int32_t>(vocab, static_cast<int32_t>(random() % 700));
  for (int32_t i = 0; i < wanted; ++i) ids.push_back(static_cast<int32_t>(random() % vocab));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::shuffle(ids.begin(), ids.end(), random);
  for (const int32_t id : ids) {
    r->counts.push_back(
        {id, static_cast<int32_t>(random() % 2), static_cast<int32_t>(random() % 4)});
  }
  r->num_counts = static_cast<int32_t>(ids.size());
  r->counts.resize(ids.size() + random() % 3);  // sometimes full
  r->row.presence_penalty = OneOf(random, {0.0F, 0.5F, -0.7F});
  r->row.frequency_penalty = OneOf(random, {0.0F, 0.3F, -0.1F});
  r->row.repetition_penalty = OneOf(random, {1.0F, 1.2F, 0.9F});
}

inline TestRow RandomRow(std::mt19937& random, int32_t vocab, bool bf16) {
  TestRow r;
  r.logits = RandomLogits(random, vocab);
  if (bf16) {
    for (float& v : r.logits) v = ToFloat(ToBFloat16(v));
  }
  r.row.seed = static_cast<uint64_t>(random()) << 32 | random();
  r.row.choice = random() % 4;
  r.row.position = random() % 5000;
  r.row.temperature = OneOf(random, {0.0F, 0.01F, 0.7F, 1.0F, 1.0F, 2.0F});
  if (random() % 2 == 0) r.row.top_k = OneOf(random, {1, 2, 20, 50, 300, 1500, 5000, vocab + 5});
  if (random() % 2 == 0) {
    r.row.top_p = OneOf(random, {0.0F, 0.1F, 0.5F, 0.8F, 0.9F, 0.95F, 0.99F, 0.9999F});
  }
  if (random() % 3 == 0) r.row.min_p = OneOf(random, {1e-6F, 0.01F, 0.1F, 0.5F, 1.0F});
  if (random() % 4 == 0) {
    const auto first = static_cast<int32_t>(random() % vocab);
    for (int32_t i = first; i < vocab && i < first + 40; i += 1 + static_cast<int>(random() % 9)) {
      r.bias_tokens.push_back(i);
      r.bias_values.push_back(OneOf(random, {-100.0F, -1.0F, 2.0F, 5.0F}));
    }
  }
  if (random() % 4 == 0) {
    for (int i = 0; i < 5; ++i) r.banned.push_back(static_cast<int32_t>(random() % vocab));
    r.banned.push_back(static_cast<int32_t>(std::max_element(r.logits.begin(), r.logits.end()) -
                                            r.logits.begin()));
  }
  if (random() % 4 == 0) {
    const int density = OneOf(random, {0, 1, 1, 2});
    for (int32_t i = 0; i < (vocab + 31) / 32; ++i) {
      const auto bits = static_cast<uint32_t>(random());
      r.mask.push_back(density == 0   ? 0
                       : density == 1 ? bits & random() & random() & random()
                                      : bits | random());
    }
  }
  if (random() % 3 == 0) AddHistory(random, vocab, &r);
  r.row.num_logprobs = OneOf(random, {-1, -1, 0, 1, 5, 20});
  return r;
}

// What a launch gave.
struct SampleResult {
  std::vector<int32_t> tokens;
  std::vector<int32_t> slot_tokens;
  std::vector<uint8_t> status;
  std::vector<float> logprobs;
  std::vector<int32_t> top_tokens;
  std::vector<float> top_logprobs;
};

}  // namespace fathom::kernels::cuda
