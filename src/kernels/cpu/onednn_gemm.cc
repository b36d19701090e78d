#include "kernels/cpu/onednn_gemm.h"

#include <omp.h>

#include <cstdlib>
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fathom::kernels::cpu {
namespace {

using dnnl::memory;

// Below this depth our own kernels are as fast, and the call costs more than it saves.
constexpr int32_t kWorthwhileCols = 2048;

// What one primitive is made for; the rows are always kRows.
struct Key {
  int32_t n = 0;
  int32_t k = 0;
  DType out_dtype = DType::kF32;
  bool bias = false;

  auto Tie() const { return std::tie(n, k, out_dtype, bias); }
  bool operator<(const Key& other) const { return Tie() < other.Tie(); }
};

memory::data_type TypeOf(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// A primitive is immutable; each thread brings its own scratchpad.
struct Primitive {
  explicit Primitive(const dnnl::matmul::primitive_desc& made) : desc(made), matmul(made) {}
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul matmul;
};

std::optional<Primitive> Make(const Key& key, const dnnl::engine& engine) {
  const memory::desc x({OneDnnGemm::kRows, key.k}, memory::data_type::f32, memory::dims{key.k, 1});
  const memory::desc weight({key.k, key.n}, memory::data_type::f32, memory::format_tag::BA16a64b);
  const memory::desc out({OneDnnGemm::kRows, key.n}, TypeOf(key.out_dtype), memory::dims{key.n, 1});
  const memory::desc bias({1, key.n}, memory::data_type::f32, memory::dims{key.n, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::desc what =
      key.bias ? dnnl::matmul::desc(x, weight, bias, out) : dnnl::matmul::desc(x, weight, out);
  const dnnl::matmul::primitive_desc desc(what, attributes, engine, /*allow_empty=*/true);
  // Anything but the blocked JIT kernels would be slower than ours.
  if (!desc || std::string_view(desc.impl_info_str()).substr(0, 4) != "brg:") return std::nullopt;
  return Primitive(desc);
}

}  // namespace

class OneDnnGemm::Cache {
 public:
  Cache() : engine_(dnnl::engine::kind::cpu, 0) {}
  const dnnl::engine& engine() const { return engine_; }

  // Null when there is none. What is returned lives as long as the cache.
  const Primitive* Find(const Key& key) {
    const std::lock_guard lock(mutex_);
    auto found = primitives_.find(key);
    if (found == primitives_.end()) found = primitives_.emplace(key, Make(key, engine_)).first;
    return found->second ? &*found->second : nullptr;
  }

 private:
  const dnnl::engine engine_;
  std::mutex mutex_;
  // State below is protected by mutex_. A model has a handful of shapes.
  std::map<Key, std::optional<Primitive>> primitives_;
};

OneDnnGemm::OneDnnGemm(Isa isa)
    : cache_(isa >= Isa::kAvx512 ? std::make_unique<Cache>() : nullptr) {}

OneDnnGemm::~OneDnnGemm() = default;

bool OneDnnGemm::Wants(const LinearArgs& args, const PackedPanels& weight) const {
  return cache_ != nullptr && args.rows >= kRows && weight.cols() >= kWorthwhileCols &&
         args.dtype == DType::kF32 && weight.dtype() == DType::kF32;
}

bool OneDnnGemm::Multiply(const LinearArgs& args, const PackedPanels& weight, int32_t first_row) {
  // One thread for the primitive's own loops, on this thread of ours.
  omp_set_num_threads(1);
  Key key;
  key.n = weight.rows();
  key.k = weight.cols();
  key.out_dtype = args.out_dtype;
  key.bias = args.bias != nullptr;
  try {
    const Primitive* primitive = cache_->Find(key);
    if (primitive == nullptr) return false;
    const dnnl::engine& engine = cache_->engine();
    thread_local std::vector<char> scratchpad;
    const size_t scratch_bytes = primitive->desc.scratchpad_desc().get_size();
    if (scratchpad.size() < scratch_bytes) scratchpad.resize(scratch_bytes);
    char* x = const_cast<char*>(static_cast<const char*>(args.x)) +
              int64_t{first_row} * weight.cols() * static_cast<int64_t>(sizeof(float));
    char* out = static_cast<char*>(args.out) +
                int64_t{first_row} * weight.rows() * static_cast<int64_t>(SizeOf(args.out_dtype));
    std::unordered_map<int, memory> buffers = {
        {DNNL_ARG_SRC, memory(primitive->desc.src_desc(), engine, x)},
        {DNNL_ARG_WEIGHTS,
         memory(primitive->desc.weights_desc(), engine, const_cast<void*>(weight.panel(0)))},
        {DNNL_ARG_DST, memory(primitive->desc.dst_desc(), engine, out)},
        {DNNL_ARG_SCRATCHPAD,
         memory(primitive->desc.scratchpad_desc(), engine, scratchpad.data())}};
    if (key.bias) {
      buffers.emplace(DNNL_ARG_BIAS,
                      memory(primitive->desc.bias_desc(), engine, const_cast<float*>(args.bias)));
    }
    dnnl::stream stream(engine);
    primitive->matmul.execute(stream, buffers);
    stream.wait();
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace fathom::kernels::cpu
