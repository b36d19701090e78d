#include "worker/engine/batch.h"

#include <algorithm>

#include "common/check.h"
#include "worker/sampling/params.h"

namespace fathom::worker {
namespace {

void WriteTokens(const PlannedChunk& chunk, ForwardInput* out) {
  const Sequence& s = *chunk.sequence;
  const auto known = static_cast<int32_t>(s.tokens.size());
  for (int32_t p = chunk.first; p < chunk.first + chunk.count; ++p) {
    // Only the newest token can be unknown: a step samples one.
    FATHOM_CHECK(p < known || (p == known && chunk.count == 1), "a token nobody knows");
    out->token_ids.push_back(p < known ? s.tokens[p] : kTokenFromSlot);
    out->positions.push_back(p);
  }
}

void WriteTables(Sequence* s, ForwardInput* out) {
  for (size_t g = 0; g < s->tables.size(); ++g) {
    BlockTable& table = s->tables[g];
    const auto size = static_cast<int32_t>(table.blocks.size());
    const int32_t first = std::max(table.num_sent, table.num_released);
    if (first >= size) continue;
    out->table_updates.push_back({s->slot, static_cast<int32_t>(g), first,
                                  static_cast<int32_t>(out->block_ids.size()), size - first});
    for (int32_t i = first; i < size; ++i) out->block_ids.push_back(table.blocks[i].id());
    table.num_sent = size;
  }
}

SlotSetup MakeSetup(const Sequence& s) {
  const EngineRequest& r = s.request->request;
  SlotSetup setup;
  setup.slot = s.slot;
  setup.choice = s.choice;
  setup.params = r.sampling;
  setup.min_tokens = r.stop.min_tokens;
  if (r.stop.min_tokens > s.num_output()) setup.end_tokens = s.request->masked_ends;
  setup.num_logprobs = r.logprobs.output ? r.logprobs.output_top : -1;
  setup.max_output = s.max_len - s.prompt_len;
  const auto prompt_end = s.tokens.begin() + s.prompt_len;
  if (ReadsPrompt(r.sampling)) setup.prompt.assign(s.tokens.begin(), prompt_end);
  if (ReadsOutput(r.sampling)) setup.output.assign(prompt_end, s.tokens.end());
  return setup;
}

}  // namespace

void WriteStep(uint64_t serial, Step* step) {
  ForwardInput& forward = step->forward;
  SampleInput& sample = step->sample;
  step->serial = forward.step = serial;
  step->has_grammar = step->sample_launched = false;
  forward.token_ids.clear();
  forward.positions.clear();
  forward.sequences.clear();
  forward.logit_rows.clear();
  forward.table_updates.clear();
  forward.block_ids.clear();
  forward.copies.assign(step->plan.copies.begin(), step->plan.copies.end());
  sample.Clear();

  for (const PlannedChunk& chunk : step->plan.chunks) {
    Sequence* s = chunk.sequence;
    const auto first_token = static_cast<int32_t>(forward.token_ids.size());
    const auto first_row = static_cast<int32_t>(forward.logit_rows.size());
    WriteTokens(chunk, &forward);
    WriteTables(s, &forward);
    for (int32_t i = 0; i < chunk.num_scored; ++i) {
      sample.scores.push_back({static_cast<int32_t>(forward.logit_rows.size()),
                               s->tokens[chunk.first + i + 1],
                               s->request->request.logprobs.prompt.value_or(0)});
      forward.logit_rows.push_back(first_token + i);
    }
    if (chunk.samples) {
      if (!s->slot_ready) sample.setups.push_back(MakeSetup(*s));
      s->slot_ready = true;
      step->has_grammar |= s->grammar != nullptr;
      sample.rows.push_back({s->slot, static_cast<int32_t>(forward.logit_rows.size()),
                             s->length() - 1 - s->prompt_len});
      forward.logit_rows.push_back(first_token + chunk.count - 1);
    }
    forward.sequences.push_back({s->slot, first_token, chunk.count, chunk.first, first_row,
                                 static_cast<int32_t>(forward.logit_rows.size()) - first_row,
                                 s->request->request.adapter_id});
  }
}

}  // namespace fathom::worker
