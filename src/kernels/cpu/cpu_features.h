#pragma once

// Which instructions the fast backend may use. What the processor and the operating system offer is
// capped by ONEDNN_MAX_CPU_ISA (or its old name DNNL_MAX_CPU_ISA), the variable oneDNN itself
// obeys.

#include <optional>
#include <string_view>

namespace fathom::kernels::cpu {

enum class Isa {
  kAvx2,    // with FMA
  kAvx512,  // F, BW, DQ, VL
  // With BF16 dot products that are worth it: Zen 4 doubles its rate by them. Processors with AMX
  // have them but multiply faster in FP32 (Sapphire Rapids: 88 against 140 GFLOP/s a core).
  kAvx512Bf16,
  kAmx,  // with BF16; includes all of the above
};

const char* Name(Isa isa);

// The best of this machine, or nothing without AVX2 and FMA. Reads the environment once, and asks
// Linux once for AMX's registers, which it grants to the whole process.
std::optional<Isa> DetectIsa();

// `best` capped by a value of ONEDNN_MAX_CPU_ISA; unknown values cap nothing, as in oneDNN. Nothing
// when the cap lies below AVX2.
std::optional<Isa> CapIsa(Isa best, std::string_view cap);

}  // namespace fathom::kernels::cpu
