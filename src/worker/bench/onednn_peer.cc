#include "worker/bench/onednn_peer.h"

#include <omp.h>

#include <chrono>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_features.h"

namespace fathom::worker {

using dnnl::memory;

class OneDnnPeer::Product {
 public:
  Product(const dnnl::engine& engine, DType dtype, const MatrixShape& shape, int64_t rows) {
    const auto type = dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc x({rows, shape.k}, type, memory::format_tag::ab);
    const memory::desc weights({shape.k, shape.n}, type, memory::format_tag::any);
    const memory::desc out({rows, shape.n}, type, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(x, weights, out), engine);
    matmul_ = dnnl::matmul(desc);
    arguments_ = {{DNNL_ARG_SRC, Zeros(desc.src_desc(), engine)},
                  {DNNL_ARG_WEIGHTS, Zeros(desc.weights_desc(), engine)},
                  {DNNL_ARG_DST, Zeros(desc.dst_desc(), engine)}};
  }
  void Run(dnnl::stream& stream) {
    matmul_.execute(stream, arguments_);
    stream.wait();
  }

 private:
  static memory Zeros(const memory::desc& desc, const dnnl::engine& engine) {
    memory made(desc, engine);
    std::fill_n(static_cast<char*>(made.get_data_handle()), desc.get_size(), char{0});
    return made;
  }
  dnnl::matmul matmul_;
  std::unordered_map<int, memory> arguments_;
};

class OneDnnPeer::Impl {
 public:
  Impl(int32_t threads, DType dtype)
      : threads_(threads), dtype_(dtype), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

  double FlopPerSecond(std::span<const MatrixShape> matrices, int64_t rows) {
    omp_set_num_threads(threads_);
    double flop = 0;
    std::chrono::duration<double> took = {};
    for (const MatrixShape& shape : matrices) {
      const auto key = std::tuple(shape.n, shape.k, rows);
      auto found = products_.find(key);
      if (found == products_.end()) {
        found = products_.try_emplace(key, engine_, dtype_, shape, rows).first;
        found->second.Run(stream_);
      }
      const auto start = std::chrono::steady_clock::now();
      found->second.Run(stream_);
      took += std::chrono::steady_clock::now() - start;
      flop += 2.0 * static_cast<double>(shape.n * shape.k * rows);
    }
    return flop / took.count();
  }

 private:
  const int32_t threads_;
  const DType dtype_;
  const dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, Product> products_;
};

OneDnnPeer::OneDnnPeer(int32_t threads, DType dtype)
    : dtype_(kernels::cpu::DetectIsa() >= kernels::cpu::Isa::kAvx512 ? dtype : DType::kF32),
      impl_(std::make_unique<Impl>(threads, dtype_)) {}

OneDnnPeer::~OneDnnPeer() = default;

absl::StatusOr<double> OneDnnPeer::FlopPerSecond(std::span<const MatrixShape> matrices,
                                                 int64_t rows) {
  try {
    return impl_->FlopPerSecond(matrices, rows);
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN: ", error.what()));
  }
}

}  // namespace fathom::worker
