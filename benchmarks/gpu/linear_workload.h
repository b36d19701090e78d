#pragma once

// The matrices a decode step streams, in one arena of random weights many times the size of L2, and
// the ways to run them in a CUDA graph, timed by events. Any CUDA error ends the program.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/library_linear.h"
#include "kernels/cuda/linear.h"

namespace fathom::benchmarks {

struct Shape {
  std::string model;
  std::string name;
  int32_t n = 0;
  int32_t k = 0;

  double Bytes() const { return 2.0 * n * k; }
};

// Of "8b", "70b", "7b" (Qwen2.5) or "all".
std::vector<Shape> ShapesOf(const std::string& models);

// The skinny kernel, one launch after the other or overlapping; the wide one, overlapping;
// cuBLASLt.
enum class Mode { kSerial, kProgrammatic, kWide, kLibrary };

// What the chain's products take along, as a model's step wants it; see kernels::LinearFusion.
struct ChainFusion {
  bool norm = false;      // qkv, gate_up and lm_head divide by a norm
  bool gated = false;     // gate_up
  bool residual = false;  // o and down
};

class LinearWorkload {
 public:
  static constexpr int32_t kMaxTokens = 256;

  // Weights of an 8B model with `layers` layers, and room for each of `shapes`.
  LinearWorkload(int32_t layers, const std::vector<Shape>& shapes);
  ~LinearWorkload();
  LinearWorkload(const LinearWorkload&) = delete;
  LinearWorkload& operator=(const LinearWorkload&) = delete;

  int32_t num_multiprocessors() const { return num_multiprocessors_; }
  const std::string& device() const { return device_; }
  double ChainBytes() const { return chain_bytes_; }

  // GB/s of a kernel that reads the whole arena.
  double ReadRate();

  // Seconds for all matrices of the model, each fed with the output of the one before.
  double TimeChain(int32_t tokens, Mode mode, const ChainFusion& fusion = {});

  // Seconds a launch, of launches over about `bytes` of distinct weights of one shape. `plan`, of
  // the skinny kernel, may be null.
  double TimeShape(const Shape& shape, int32_t tokens, Mode mode,
                   const kernels::cuda::SkinnyPlan* plan, double bytes, int repeats);

  // Largest difference from the plain kernel, over the largest output.
  double Error(const Shape& shape, int32_t tokens, Mode mode);

 private:
  struct Matrix {
    char* data;
    int32_t n, k;
  };
  void Launch(const Matrix& matrix, const void* x, void* out, int32_t tokens, Mode mode,
              const kernels::cuda::SkinnyPlan* plan, const kernels::LinearFusion& fusion = {});
  kernels::LinearFusion FusionAt(size_t i, const ChainFusion& fusion) const;
  double TimeGraph(const std::function<void()>& launches, int repeats);

  int32_t num_multiprocessors_ = 0;
  std::string device_;
  cudaStream_t stream_ = nullptr;
  char* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  char* x_ = nullptr;
  char* buffers_[2] = {};
  char* residual_ = nullptr;
  float* norm_weight_ = nullptr;
  float* squares_ = nullptr;
  void* workspace_ = nullptr;
  void* library_workspace_ = nullptr;
  kernels::cuda::LibraryLinear library_;
  std::vector<Matrix> chain_;
  double chain_bytes_ = 0;
};

}  // namespace fathom::benchmarks
