#include "worker/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/strings.h"
#include "worker/memory_budget.h"
#include "worker/model/model_testing.h"

namespace fathom::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kMiB = int64_t{1} << 20;

// About an 8B model in BF16: 2 MiB a block of 16 tokens.
ModelSizes EightB() {
  ModelSizes sizes;
  sizes.weight_bytes = 15 * kGiB;
  sizes.scratch_bytes_per_token = 200 << 10;
  sizes.scratch_bytes_per_row = 500 << 10;
  sizes.scratch_bytes = 2048 * sizes.scratch_bytes_per_token + 256 * sizes.scratch_bytes_per_row;
  sizes.kv.block_tokens = 16;
  sizes.kv.groups = {{KvGroupKind::kFull, {0}, 0, 128 << 10, 0}};
  sizes.max_context = 131072;
  return sizes;
}

ModelSizes OnGpu(ModelSizes sizes, int64_t total_bytes, int64_t free_bytes) {
  sizes.device = kernels::DeviceFacts{.name = "NVIDIA Test GPU",
                                      .pci_bus_id = "0000:01:00.0",
                                      .total_bytes = total_bytes,
                                      .free_bytes = free_bytes,
                                      .workspace_bytes = 100 * kMiB};
  return sizes;
}

MemoryWishes Wishes() { return {.device = "cuda:0", .max_sequences = 256, .step_tokens = 2048}; }

std::string Refusal(const ModelSizes& sizes, const MemoryWishes& wishes, int64_t free_bytes) {
  const absl::Status status = CheckFits(sizes, wishes, free_bytes);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  return std::string(Message(status));
}

// What the flags of a refusal say must be true of them.
TEST(CheckFits, AModelFitsWithTheSmallestUsefulCacheAndWhatStaysFree) {
  const ModelSizes sizes = OnGpu(EightB(), 80 * kGiB, 79 * kGiB);
  const int64_t cache = 512 / 16 * 2 * kMiB;
  const int64_t needed =
      sizes.weight_bytes + sizes.scratch_bytes + cache + kGraphBytes + kSpareBytes;
  EXPECT_TRUE(CheckFits(sizes, Wishes(), needed).ok());
  EXPECT_FALSE(CheckFits(sizes, Wishes(), needed - 1).ok());
}

TEST(CheckFits, ARefusalSaysWhatTakesHowMuchAndNamesTheDevice) {
  const std::string text = Refusal(OnGpu(EightB(), 16 * kGiB, 15 * kGiB), Wishes(), 15 * kGiB);
  EXPECT_THAT(text, HasSubstr("weights 15.0 GiB"));
  EXPECT_THAT(text, HasSubstr("steps of 2048 tokens 0.6 GiB"));
  EXPECT_THAT(text, HasSubstr("the smallest useful KV cache (512 tokens) 0.1 GiB"));
  EXPECT_THAT(text, HasSubstr("recorded steps 0.5 GiB"));
  EXPECT_THAT(text, HasSubstr("left free 1.5 GiB"));
  EXPECT_THAT(text, HasSubstr("cuda:0 has 15.0 GiB free of 16.0 GiB (NVIDIA Test GPU)"));
  EXPECT_THAT(text, HasSubstr("use a GPU with at least 17.6 GiB free"));
  // Nothing makes 15 GiB of weights and 2 GiB of the rest fit.
  EXPECT_THAT(text, Not(HasSubstr("give")));
  EXPECT_THAT(text, Not(HasSubstr("nvidia-smi")));
}

TEST(CheckFits, AFullGpuIsToldFromASmallOne) {
  EXPECT_THAT(Refusal(OnGpu(EightB(), 80 * kGiB, 9 * kGiB), Wishes(), 9 * kGiB),
              HasSubstr("end what else uses its memory"));
}

TEST(CheckFits, ASmallerStepIsOfferedWhenItIsEnough) {
  const int64_t free_bytes = 17 * kGiB + 400 * kMiB;
  const ModelSizes sizes = OnGpu(EightB(), 18 * kGiB, free_bytes);
  EXPECT_THAT(Refusal(sizes, Wishes(), free_bytes), HasSubstr("give --step-tokens 1024, or"));
  ModelSizes smaller = sizes;
  smaller.scratch_bytes -= 1024 * sizes.scratch_bytes_per_token;
  MemoryWishes wishes = Wishes();
  wishes.step_tokens = 1024;
  EXPECT_TRUE(CheckFits(smaller, wishes, free_bytes).ok());
}

TEST(CheckFits, FewerSequencesAreOfferedBeforeSmallerSteps) {
  MemoryWishes wishes = Wishes();
  wishes.max_sequences = 1024;
  ModelSizes sizes = OnGpu(EightB(), 18 * kGiB, 0);
  sizes.scratch_bytes += (1024 - 256) * sizes.scratch_bytes_per_row;
  EXPECT_THAT(Refusal(sizes, wishes, 17 * kGiB + 700 * kMiB),
              HasSubstr("give --max-sequences 256, or"));
}

TEST(CheckFits, AContextThatFitsIsOffered) {
  MemoryWishes wishes = Wishes();
  wishes.max_context = 131072;
  const int64_t free_bytes = 20 * kGiB;
  const ModelSizes sizes = OnGpu(EightB(), 24 * kGiB, free_bytes);
  const std::string text = Refusal(sizes, wishes, free_bytes);
  const int64_t room = free_bytes - sizes.weight_bytes - sizes.scratch_bytes - 2 * kGiB;
  EXPECT_THAT(text, HasSubstr("KV cache (131072 tokens) 16.0 GiB"));
  wishes.max_context = static_cast<int32_t>(room / (2 * kMiB) * 16);
  EXPECT_THAT(text, HasSubstr("give --max-context " + std::to_string(wishes.max_context)));
  EXPECT_TRUE(CheckFits(sizes, wishes, free_bytes).ok());
}

TEST(CheckFits, ACacheThatWasAskedForMayUseWhatStaysFree) {
  MemoryWishes wishes = Wishes();
  wishes.kv_cache_bytes = 30 * kGiB;
  const ModelSizes sizes = OnGpu(EightB(), 24 * kGiB, 20 * kGiB);
  const std::string text = Refusal(sizes, wishes, 20 * kGiB);
  EXPECT_THAT(text, HasSubstr("the KV cache asked for 30.0 GiB"));
  wishes.kv_cache_bytes = 20 * kGiB - sizes.weight_bytes - sizes.scratch_bytes - kGraphBytes;
  EXPECT_THAT(text, HasSubstr("give --kv-cache-bytes " + std::to_string(wishes.kv_cache_bytes)));
  EXPECT_TRUE(CheckFits(sizes, wishes, 20 * kGiB).ok());
  // No more is taken than all sequences could use.
  wishes.kv_cache_bytes = int64_t{1} << 45;
  wishes.max_context = 512;
  wishes.max_sequences = 4;
  EXPECT_TRUE(CheckFits(sizes, wishes, 20 * kGiB).ok());
}

TEST(CheckFits, TheProcesssMemoryKeepsItsPartForOthers) {
  MemoryWishes wishes = Wishes();
  wishes.device = "cpu";
  const ModelSizes sizes = EightB();
  const int64_t cache = 512 / 16 * 2 * kMiB;
  const int64_t needed = sizes.weight_bytes + sizes.scratch_bytes + FreeBytesForKv(cache);
  EXPECT_TRUE(CheckFits(sizes, wishes, needed).ok());
  EXPECT_GE(KvShareBytes(sizes, FreeBytesForKv(cache)), cache);
  const std::string text = Refusal(sizes, wishes, 8 * kGiB);
  EXPECT_THAT(text, HasSubstr("cpu has 8.0 GiB free; use a machine with at least 15.7 GiB free"));
}

TEST(MemoryPlan, EveryByteIsAccountedFor) {
  const ModelSizes sizes = OnGpu(EightB(), 80 * kGiB, 79 * kGiB);
  const int64_t share = KvShareBytes(sizes, 79 * kGiB - sizes.weight_bytes - sizes.scratch_bytes);
  const MemoryPlan plan = PlanOf(sizes, Wishes(), 79 * kGiB, share / (2 * kMiB));
  EXPECT_EQ(plan.free_bytes, 79 * kGiB + 100 * kMiB);
  EXPECT_EQ(plan.kv_tokens, plan.kv_blocks * 16);
  EXPECT_EQ(plan.kv_bytes, plan.kv_blocks * 2 * kMiB);
  EXPECT_GE(plan.LeftBytes(), kSpareBytes);
  EXPECT_LT(plan.LeftBytes(), kSpareBytes + 2 * kMiB);
  const std::string table = MemoryTable(plan);
  EXPECT_THAT(table, HasSubstr("Memory of cuda:0, NVIDIA Test GPU\n"));
  EXPECT_THAT(table, HasSubstr("    15.00 GiB      16106127360 bytes\n"));
  EXPECT_THAT(table, HasSubstr(absl::StrCat("KV cache, ", plan.kv_blocks, " blocks, ")));
}

// The dry run counts what the loading takes: a second one on what is called a full device fails
// before anything is read, with the same sizes.
TEST(ModelSizes, AreKnownBeforeTheWeightsAreRead) {
  ModelOptions options;
  options.path = SourcePath("models/tiny");
  options.compute_dtype = DType::kF32;
  options.threads = 1;
  ModelSizes sizes;
  options.approve = [&sizes](const ModelSizes& measured) {
    sizes = measured;
    return absl::ResourceExhaustedError("full");
  };
  EXPECT_TRUE(absl::IsResourceExhausted(LoadModel(options).status()));
  // 7.35 M parameters as BF16, the embedding kept twice: to look up and to multiply.
  EXPECT_GT(sizes.weight_bytes, 7'000'000 * 2);
  EXPECT_LT(sizes.weight_bytes, 9'000'000 * 2);
  EXPECT_FALSE(sizes.device.has_value());
  EXPECT_EQ(sizes.scratch_bytes, options.max_step_tokens * sizes.scratch_bytes_per_token +
                                     options.max_logit_rows * sizes.scratch_bytes_per_row);
}

}  // namespace
}  // namespace fathom::worker
