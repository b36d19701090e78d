#pragma once

// Everything that is compiled once an instruction set, and the table of it. Included only by the
// kernels_<isa>.cc files, which name their namespace in FATHOM_ISA.

#if defined(__AMX_BF16__)
#include "kernels/cpu/amx_attention.h"
#include "kernels/cpu/amx_gemm.h"
#endif
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/stream_kernels.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

// NOLINTNEXTLINE(misc-definitions-in-headers): one file an instruction set, one namespace a file.
constinit const KernelTable kKernels = {
    .gemm_f32 = GemmF32,
#if defined(__AMX_BF16__)
    .gemm_bf16_tiles = GemmBf16Tiles,
#elif defined(__AVX512BF16__)
    .gemm_bf16_dot = GemmBf16Dot,
#endif
    .gemm_bf16_panel = GemmBf16Panel,
    .read_stream = ReadStream,
    .to_float = ToFloat,
    .rms_norm = {RmsNorm<float>, RmsNorm<Bf16>},
    .rotate_heads = {RotateHeads<float>, RotateHeads<Bf16>},
    .silu_mul = {SiluMul<float>, SiluMul<Bf16>},
#if defined(__AMX_BF16__)
    .attend = {Attend<float>, AttendOnTiles},
    .query_rows = {kQueryRows, kMostQueryRows},
#else
    .attend = {Attend<float>, Attend<Bf16>},
#endif
};

}  // namespace fathom::kernels::cpu::FATHOM_ISA
