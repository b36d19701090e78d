// What a model refuses, and what it does beside plain text: slot tokens, block copies, embeddings.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "common/strings.h"
#include "worker/model/model_testing.h"

namespace fathom::worker {
namespace {

ModelOptions SmallOptions(BackendKind backend = BackendKind::kFast) {
  ModelOptions options;
  options.path = SourcePath("tests/golden/logits/qwen2_gqa7_mixed");
  options.backend = backend;
  options.batch_invariant = true;
  options.threads = 2;
  options.max_step_tokens = 64;
  options.max_logit_rows = 8;
  return options;
}

// One sequence of four tokens in slot 1, blocks 5 and 6 of the two groups.
ForwardInput GoodInput() {
  ForwardInput input;
  input.token_ids = {3, 4, 5, 6};
  input.positions = {0, 1, 2, 3};
  input.sequences = {{1, 0, 4, 0, 0, 1, -1}};
  input.logit_rows = {3};
  input.block_ids = {5, 6};
  input.table_updates = {{1, 0, 0, 0, 1}, {1, 1, 0, 1, 1}};
  return input;
}

std::vector<float> LogitsOf(Model& model, const ForwardInput& input) {
  const auto logits = model.Forward(input);
  EXPECT_TRUE(logits.ok()) << logits.status();
  if (!logits.ok()) return {};
  return {logits->data, logits->data + static_cast<size_t>(logits->rows) * logits->vocab};
}

TEST(DecoderTest, ForwardBeforeAllocateKvIsRefused) {
  const auto model = LoadModel(SmallOptions());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(absl::IsFailedPrecondition((*model)->Forward(GoodInput()).status()));
  EXPECT_TRUE((*model)->slot_tokens().empty());
}

TEST(DecoderTest, InputsThatPointOutsideAreRefused) {
  ModelHarness harness(SmallOptions(), 1);
  const std::pair<const char*, std::function<void(ForwardInput&)>> cases[] = {
      {"no tokens", [](ForwardInput& i) { i = ForwardInput(); }},
      {"token id", [](ForwardInput& i) { i.token_ids[2] = 128; }},
      {"negative token id", [](ForwardInput& i) { i.token_ids[2] = -2; }},
      {"positions missing", [](ForwardInput& i) { i.positions.pop_back(); }},
      {"negative position", [](ForwardInput& i) { i.positions[0] = -1; }},
      {"slot", [](ForwardInput& i) { i.sequences[0].slot = ModelHarness::kMaxSequences; }},
      {"query_len 0", [](ForwardInput& i) { i.sequences[0].query_len = 0; }},
      {"query_len short", [](ForwardInput& i) { i.sequences[0].query_len = 3; }},
      {"context overflow", [](ForwardInput& i) { i.sequences[0].context_len = INT32_MAX; }},
      {"context without blocks", [](ForwardInput& i) { i.sequences[0].context_len = 16; }},
      {"context beyond the table", [](ForwardInput& i) { i.sequences[0].context_len = 100000; }},
      {"logit row", [](ForwardInput& i) { i.logit_rows[0] = 4; }},
      {"logit row count", [](ForwardInput& i) { i.logit_rows.push_back(0); }},
      {"too many logit rows", [](ForwardInput& i) { i.logit_rows.assign(9, 0); }},
      {"block id", [](ForwardInput& i) { i.block_ids[0] = 1 << 30; }},
      {"block index", [](ForwardInput& i) { i.table_updates[0].first_index = 1 << 20; }},
      {"block span", [](ForwardInput& i) { i.table_updates[0].num_blocks = 3; }},
      {"group", [](ForwardInput& i) { i.table_updates[0].group = 2; }},
      {"copy",
       [](ForwardInput& i) {
         i.copies = {{0, 0, 1 << 30}};
       }},
      {"embedding span",
       [](ForwardInput& i) {
         i.embedding_spans = {{0, 1, 0}};
       }},
      {"embedding row size", [](ForwardInput& i) { i.embeddings.resize(63); }},
      {"adapter", [](ForwardInput& i) { i.sequences[0].adapter_id = 0; }},
      {"position rows", [](ForwardInput& i) { i.num_position_rows = 3; }},
  };
  for (const auto& [name, spoil] : cases) {
    ForwardInput input = GoodInput();
    spoil(input);
    EXPECT_FALSE(harness.model().Forward(input).ok()) << name;
  }
  EXPECT_TRUE(harness.model().Forward(GoodInput()).ok());
}

TEST(DecoderTest, TokensFromSlotsAreThoseTheSamplerLeft) {
  ModelHarness harness(SmallOptions(), 1);
  const std::vector<float> plain = LogitsOf(harness.model(), GoodInput());
  ForwardInput input = GoodInput();
  input.token_ids[3] = kTokenFromSlot;
  harness.model().slot_tokens()[1] = 6;
  EXPECT_EQ(LogitsOf(harness.model(), input), plain);
}

TEST(DecoderTest, CopiedBlocksContinueAlike) {
  ModelHarness harness(SmallOptions(), 1);
  LogitsOf(harness.model(), GoodInput());
  // Slot 2 goes on from a copy of slot 1's blocks, slot 1 from its own.
  ForwardInput input;
  input.token_ids = {9, 9};
  input.positions = {4, 4};
  input.sequences = {{1, 0, 1, 4, 0, 1, -1}, {2, 1, 1, 4, 1, 1, -1}};
  input.logit_rows = {0, 1};
  input.block_ids = {7, 8};
  input.table_updates = {{2, 0, 0, 0, 1}, {2, 1, 0, 1, 1}};
  input.copies = {{0, 5, 7}, {1, 6, 8}};
  const std::vector<float> logits = LogitsOf(harness.model(), input);
  const size_t vocab = harness.config().vocab_size;
  ASSERT_EQ(logits.size(), 2 * vocab);
  EXPECT_TRUE(std::equal(logits.begin(), logits.begin() + vocab, logits.begin() + vocab));
}

TEST(DecoderTest, EmbeddingSpansReplaceTheTable) {
  ModelHarness harness(SmallOptions(), 1);
  const std::vector<float> plain = LogitsOf(harness.model(), GoodInput());
  ForwardInput input = GoodInput();
  input.embeddings.assign(2 * harness.config().hidden_size, 0.25F);
  input.embedding_spans = {{1, 2, 0}};
  const std::vector<float> spanned = LogitsOf(harness.model(), input);
  EXPECT_NE(spanned, plain);
  // The tokens beneath the span no longer matter.
  input.token_ids[1] = 77;
  input.token_ids[2] = 78;
  EXPECT_EQ(LogitsOf(harness.model(), input), spanned);
}

TEST(DecoderTest, StepWithoutLogitRowsStillWritesKv) {
  ModelHarness harness(SmallOptions(), 1);
  const std::vector<TokenId> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  const std::vector<float> whole = harness.Step({{0, tokens, {9}}});
  EXPECT_TRUE(harness.Step({{1, {tokens.begin(), tokens.begin() + 7}, {}}}).empty());
  EXPECT_EQ(harness.Step({{1, {tokens.begin() + 7, tokens.end()}, {2}}}), whole);
}

TEST(LoadModelTest, OptionsAndFoldersThatMakeNoSenseAreRefused) {
  ModelOptions options = SmallOptions();
  options.compute_dtype = DType::kI8;
  EXPECT_TRUE(absl::IsInvalidArgument(LoadModel(options).status()));
  options = SmallOptions();
  options.max_logit_rows = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(LoadModel(options).status()));
  options = SmallOptions();
  options.path = "/nonexistent";
  const absl::Status status = LoadModel(options).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_NE(Message(status).find("/nonexistent"), std::string::npos) << status;
}

}  // namespace
}  // namespace fathom::worker
