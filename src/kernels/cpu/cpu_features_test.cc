#include "kernels/cpu/cpu_features.h"

#include <gtest/gtest.h>

namespace fathom::kernels::cpu {
namespace {

TEST(CpuFeaturesTest, CapLowersTheInstructionSet) {
  EXPECT_EQ(CapIsa(Isa::kAvx512, "AVX2"), Isa::kAvx2);
  EXPECT_EQ(CapIsa(Isa::kAvx512, "avx2"), Isa::kAvx2);
  EXPECT_EQ(CapIsa(Isa::kAvx512, "AVX512_CORE_BF16"), Isa::kAvx512);
  EXPECT_EQ(CapIsa(Isa::kAvx2, "AVX512_CORE"), Isa::kAvx2);
  EXPECT_EQ(CapIsa(Isa::kAvx512Bf16, "AVX512_CORE"), Isa::kAvx512);
  EXPECT_EQ(CapIsa(Isa::kAvx512Bf16, "AVX512_CORE_VNNI"), Isa::kAvx512);
  EXPECT_EQ(CapIsa(Isa::kAvx512Bf16, "AVX512_CORE_BF16"), Isa::kAvx512Bf16);
  EXPECT_EQ(CapIsa(Isa::kAvx512Bf16, "AVX2"), Isa::kAvx2);
}

TEST(CpuFeaturesTest, CapBelowAmxSkipsItsSlowDotProducts) {
  EXPECT_EQ(CapIsa(Isa::kAmx, "ALL"), Isa::kAmx);
  EXPECT_EQ(CapIsa(Isa::kAmx, "AVX512_CORE_AMX"), Isa::kAmx);
  EXPECT_EQ(CapIsa(Isa::kAmx, "avx512_core_bf16"), Isa::kAvx512);
  EXPECT_EQ(CapIsa(Isa::kAmx, "AVX512_CORE_VNNI"), Isa::kAvx512);
  EXPECT_EQ(CapIsa(Isa::kAmx, "AVX2"), Isa::kAvx2);
  EXPECT_EQ(CapIsa(Isa::kAvx512Bf16, "AVX512_CORE_AMX"), Isa::kAvx512Bf16);
}

TEST(CpuFeaturesTest, CapBelowAvx2LeavesNothing) {
  EXPECT_EQ(CapIsa(Isa::kAvx512, "SSE41"), std::nullopt);
  EXPECT_EQ(CapIsa(Isa::kAvx2, "AVX"), std::nullopt);
}

TEST(CpuFeaturesTest, UnknownCapCapsNothing) {
  EXPECT_EQ(CapIsa(Isa::kAvx512, "ALL"), Isa::kAvx512);
  EXPECT_EQ(CapIsa(Isa::kAvx512, "nonsense"), Isa::kAvx512);
}

}  // namespace
}  // namespace fathom::kernels::cpu
