#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

namespace fathom::kernels::cpu {
namespace {

// Processors with AMX are better off without their dot products.
constexpr Isa kBelowAmx = Isa::kAvx512;

bool HasAmx() {
  constexpr unsigned kAmxBf16 = 1U << 22;
  constexpr unsigned kAmxTile = 1U << 24;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxBf16) != 0 && (d & kAmxTile) != 0;
}

// A process may touch the tiles only after it asked for them, since they make the state of its
// threads 8 KiB larger. Fails before Linux 5.16.
bool LinuxGrantsTiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::optional<Isa> Offered() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return std::nullopt;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return Isa::kAvx2;
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
  return HasAmx() ? Isa::kAmx : Isa::kAvx512Bf16;
}

std::optional<Isa> Detect() {
  const std::optional<Isa> offered = Offered();
  if (!offered) return std::nullopt;
  const char* cap = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (cap == nullptr) cap = std::getenv("DNNL_MAX_CPU_ISA");
  const std::optional<Isa> isa = cap == nullptr ? offered : CapIsa(*offered, cap);
  return isa == Isa::kAmx && !LinuxGrantsTiles() ? kBelowAmx : isa;
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
    case Isa::kAmx:
      return "amx";
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
  if (upper == "AVX512_CORE_BF16") return best == Isa::kAmx ? kBelowAmx : best;
  return best;
}

std::optional<Isa> DetectIsa() {
  static const std::optional<Isa> isa = Detect();
  return isa;
}

}  // namespace fathom::kernels::cpu
