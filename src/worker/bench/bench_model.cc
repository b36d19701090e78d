#include "worker/bench/bench_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::worker {
namespace {

int32_t BlocksFor(int32_t tokens, int32_t block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

absl::StatusOr<KvPlan> PlanFor(const Model& model, std::span<const DecodeCase> cases,
                               std::span<const int32_t> prompts, int64_t free_bytes) {
  const KvSpec& spec = model.kv_spec();
  KvPlan plan;
  plan.max_sequences = 1;
  int64_t blocks = 1;
  int32_t longest = 1;
  for (const DecodeCase& one : cases) {
    blocks = std::max(blocks, int64_t{one.batch} * BlocksFor(one.context + 1, spec.block_tokens));
    longest = std::max(longest, one.context + 1);
    plan.max_sequences = std::max(plan.max_sequences, one.batch);
  }
  for (const int32_t prompt : prompts) {
    longest = std::max(longest, prompt);
    blocks = std::max<int64_t>(blocks, BlocksFor(prompt, spec.block_tokens));
  }
  if (longest > model.config().max_context) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a context of ", longest, " tokens; the model's is ", model.config().max_context));
  }
  int64_t bytes = 0;
  for (size_t group = 0; group < spec.groups.size(); ++group) {
    bytes += spec.BytesPerBlock(group) * blocks;
  }
  if (bytes > free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the KV cache of the largest cell takes ",
                                                     bytes, " bytes, ", free_bytes, " are free"));
  }
  plan.max_blocks_per_sequence = BlocksFor(longest, spec.block_tokens);
  plan.num_blocks.assign(spec.groups.size(), static_cast<int32_t>(blocks));
  return plan;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BenchModel>> BenchModel::Create(ModelOptions options,
                                                               std::span<const DecodeCase> cases,
                                                               std::span<const int32_t> prompts,
                                                               int64_t free_bytes) {
  options.max_logit_rows = 1;
  for (const DecodeCase& one : cases) {
    options.max_logit_rows = std::max(options.max_logit_rows, one.batch);
    options.max_sequences = options.max_logit_rows;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Model> model, LoadModel(options));
  ASSIGN_OR_RETURN(const KvPlan plan, PlanFor(*model, cases, prompts, free_bytes));
  RETURN_IF_ERROR(model->AllocateKv(plan));
  std::unique_ptr<BenchModel> made(new BenchModel(std::move(model), options.max_step_tokens));
  RETURN_IF_ERROR(made->FillCache(plan));
  return made;
}

absl::Status BenchModel::Synchronize() {
  return model_->backend() == nullptr ? absl::OkStatus() : model_->backend()->Synchronize();
}

absl::Status BenchModel::FillCache(const KvPlan& plan) {
  const int32_t block_tokens = model_->kv_spec().block_tokens;
  ForwardInput first;
  GiveBlocks(first, 0, 0, 1);
  const int32_t tokens = std::min(block_tokens, model_->config().max_context);
  AddSequence(first, 0, 0, tokens, /*wants_logits=*/true);
  RETURN_IF_ERROR(model_->Forward(first).status());
  ForwardInput copies;
  for (size_t group = 0; group < plan.num_blocks.size(); ++group) {
    for (int32_t block = 1; block < plan.num_blocks[group]; ++block) {
      copies.copies.push_back({static_cast<int32_t>(group), 0, block});
    }
  }
  AddSequence(copies, 0, 0, 1, /*wants_logits=*/true);
  return model_->Forward(copies).status();
}

void BenchModel::GiveBlocks(ForwardInput& input, int32_t slot, int32_t first_block,
                            int32_t tokens) {
  const int32_t blocks = BlocksFor(tokens, model_->kv_spec().block_tokens);
  for (size_t group = 0; group < model_->kv_spec().groups.size(); ++group) {
    input.table_updates.push_back({slot, static_cast<int32_t>(group), 0,
                                   static_cast<int32_t>(input.block_ids.size()), blocks});
    for (int32_t i = 0; i < blocks; ++i) input.block_ids.push_back(first_block + i);
  }
}

void BenchModel::AddSequence(ForwardInput& input, int32_t slot, int32_t context, int32_t tokens,
                             bool wants_logits) {
  input.step = ++step_;
  SequenceInput sequence;
  sequence.slot = slot;
  sequence.first_token = input.num_tokens();
  sequence.query_len = tokens;
  sequence.context_len = context;
  sequence.first_logit_row = static_cast<int32_t>(input.logit_rows.size());
  sequence.num_logit_rows = wants_logits ? 1 : 0;
  for (int32_t i = 0; i < tokens; ++i) {
    token_ = token_ * 1664525U + 1013904223U;  // any tokens but the same ones
    input.token_ids.push_back(
        static_cast<TokenId>(token_ % static_cast<uint32_t>(config().vocab_size)));
    input.positions.push_back(context + i);
  }
  if (wants_logits) input.logit_rows.push_back(input.num_tokens() - 1);
  input.sequences.push_back(sequence);
}

absl::Status BenchModel::Decode(const DecodeCase& what) {
  const int32_t blocks = BlocksFor(what.context + 1, model_->kv_spec().block_tokens);
  ForwardInput input;
  for (int32_t slot = 0; slot < what.batch; ++slot) {
    GiveBlocks(input, slot, slot * blocks, what.context + 1);
    AddSequence(input, slot, what.context, 1, /*wants_logits=*/true);
  }
  return model_->Forward(input).status();
}

absl::Status BenchModel::Prefill(int32_t prompt) {
  for (int32_t done = 0; done < prompt;) {
    const int32_t tokens = std::min(step_tokens_, prompt - done);
    ForwardInput input;
    if (done == 0) GiveBlocks(input, 0, 0, prompt);
    AddSequence(input, 0, done, tokens, done + tokens == prompt);
    RETURN_IF_ERROR(model_->Forward(input).status());
    done += tokens;
  }
  return absl::OkStatus();
}

}  // namespace fathom::worker
