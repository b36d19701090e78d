#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace fathom::kernels::cpu {
namespace {

bool HasAmx() {
  constexpr unsigned kAmxBf16 = 1U << 22;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxBf16) != 0;
}

std::optional<Isa> Offered() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return std::nullopt;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return Isa::kAvx2;
  return __builtin_cpu_supports("avx512bf16") && !HasAmx() ? Isa::kAvx512Bf16 : Isa::kAvx512;
}

std::optional<Isa> Detect() {
  const std::optional<Isa> offered = Offered();
  if (!offered) return std::nullopt;
  const char* cap = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (cap == nullptr) cap = std::getenv("DNNL_MAX_CPU_ISA");
  return cap == nullptr ? offered : CapIsa(*offered, cap);
}

}  // namespace

const char* Name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "?";
}

std::optional<Isa> CapIsa(Isa best, std::string_view cap) {
  std::string upper(cap);
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) {
    return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  });
  if (upper == "SSE41" || upper == "AVX") return std::nullopt;
  if (upper == "AVX2" || upper == "AVX2_VNNI") return Isa::kAvx2;
  if (upper == "AVX512_MIC" || upper == "AVX512_MIC_4OPS") return Isa::kAvx2;
  if (upper == "AVX512_CORE" || upper == "AVX512_CORE_VNNI") return std::min(best, Isa::kAvx512);
  return best;
}

std::optional<Isa> DetectIsa() {
  static const std::optional<Isa> isa = Detect();
  return isa;
}

}  // namespace fathom::kernels::cpu
