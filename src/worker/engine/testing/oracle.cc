#include "worker/engine/testing/oracle.h"

#include <algorithm>

#include "common/check.h"
#include "worker/sampling/sampler.h"

namespace fathom::worker {
namespace {

bool Among(const std::vector<TokenId>& ids, TokenId token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

class FakeGrammar final : public GrammarState {
 public:
  FakeGrammar(uint64_t state, size_t left, int32_t vocab_size, TokenId eos)
      : state_(state), left_(left), vocab_size_(vocab_size), eos_(eos) {}
  absl::Status FillMask(std::span<uint32_t> mask) override {
    std::fill(mask.begin(), mask.end(), 0);
    for (TokenId id = 0; id < vocab_size_; ++id) {
      if (Allowed(id)) mask[id / 32] |= 1U << (id % 32);
    }
    return absl::OkStatus();
  }
  absl::Status Accept(TokenId token) override {
    if (!Allowed(token)) return absl::FailedPreconditionError("not allowed");
    state_ = FakeModel::Extend(state_, token);
    --left_;
    return absl::OkStatus();
  }
  bool IsFinished() const override { return left_ == 0; }
  absl::StatusOr<std::unique_ptr<GrammarState>> Clone() const override {
    return std::make_unique<FakeGrammar>(*this);
  }

 private:
  // Sometimes it may end early; every third token may come.
  bool Allowed(TokenId id) const {
    if (id == eos_) return left_ == 0 || state_ % 8 == 0;
    return left_ > 0 && FakeModel::Extend(state_, id) % 3 == 0;
  }
  uint64_t state_;
  size_t left_;
  int32_t vocab_size_;
  TokenId eos_;
};

class FakeGrammarFactory final : public GrammarFactory {
 public:
  FakeGrammarFactory(int32_t vocab_size, TokenId eos) : vocab_size_(vocab_size), eos_(eos) {}
  absl::StatusOr<std::unique_ptr<GrammarState>> Compile(const GrammarSpec& spec) const override {
    if (spec.source == "bad") return absl::InvalidArgumentError("a bad grammar");
    return std::make_unique<FakeGrammar>(spec.source.size(), spec.source.size(), vocab_size_, eos_);
  }
  int32_t mask_words() const override { return (vocab_size_ + 31) / 32; }

 private:
  int32_t vocab_size_;
  TokenId eos_;
};

}  // namespace

std::shared_ptr<const GrammarFactory> MakeFakeGrammars(int32_t vocab_size, TokenId eos) {
  return std::make_shared<FakeGrammarFactory>(vocab_size, eos);
}

OracleAnswer AskOracle(const EngineRequest& r, const ChoiceStart& choice,
                       const FakeModelOptions& model, const GrammarFactory* grammars) {
  OracleAnswer answer;
  std::unique_ptr<GrammarState> grammar;
  if (r.grammar.has_value()) grammar = *grammars->Compile(*r.grammar);
  std::vector<TokenId> ends = r.stop.stop_token_ids;
  ends.insert(ends.end(), model.eos.begin(), model.eos.end());
  const auto ends_here = [&](TokenId token) {
    if (Among(r.stop.stop_token_ids, token)) return true;
    return Among(model.eos, token) && (!r.stop.ignore_eos || grammar != nullptr);
  };
  uint64_t history = 0;
  for (const TokenId t : r.prompt) history = FakeModel::Extend(history, t);
  TokenId last = r.prompt.back();
  const auto add = [&](TokenId token) {
    answer.tokens.push_back(token);
    history = FakeModel::Extend(history, token);
    last = token;
    if (ends_here(token)) {
      answer.finish = FinishReason::kStop;
    } else if (grammar != nullptr) {
      FATHOM_CHECK(grammar->Accept(token).ok(), "the oracle broke the grammar");
      if (grammar->IsFinished()) answer.finish = FinishReason::kStop;
    }
    const auto length = static_cast<int32_t>(r.prompt.size() + answer.tokens.size());
    if (answer.finish == FinishReason::kNone &&
        (static_cast<int32_t>(answer.tokens.size()) >= r.stop.max_tokens ||
         length >= model.max_context)) {
      answer.finish = FinishReason::kLength;
    }
  };
  for (const TokenId t : choice.tokens) add(t);

  std::vector<float> logits(model.vocab_size);
  std::vector<TokenId> slot_tokens(1);
  while (answer.finish == FinishReason::kNone) {
    FakeModel::LogitsOf(history, last, model, logits);
    SampleInput in;
    SlotSetup setup;
    setup.choice = choice.index;
    setup.params = r.sampling;
    setup.min_tokens = r.stop.min_tokens;
    setup.end_tokens = ends;
    setup.num_logprobs = r.logprobs.output ? r.logprobs.output_top : -1;
    setup.max_output = r.stop.max_tokens;
    setup.prompt = r.prompt;
    setup.output = answer.tokens;
    in.setups.push_back(setup);
    SampleRow row{0, 0, static_cast<int32_t>(answer.tokens.size())};
    if (grammar != nullptr) {
      in.mask_words = grammars->mask_words();
      in.masks.resize(in.mask_words);
      FATHOM_CHECK(grammar->FillMask(in.masks).ok(), "the oracle's grammar failed");
      row.mask = 0;
      row.may_end = true;
      for (TokenId id = 0; id < model.vocab_size; ++id) {
        if ((in.masks[id / 32] >> (id % 32) & 1) != 0 && !Among(ends, id)) row.may_end = false;
      }
    }
    in.rows.push_back(row);
    Sampler sampler(1, model.vocab_size);
    SampleOutput out;
    FATHOM_CHECK(sampler.Run(in, logits.data(), 1, slot_tokens, &out).ok(), "the oracle failed");
    if (out.rows[0].status != RowStatus::kOk) {
      answer.finish = FinishReason::kError;
      break;
    }
    if (r.logprobs.output) answer.logprobs.push_back(out.logprobs[0]);
    add(out.tokens[0]);
  }
  return answer;
}

}  // namespace fathom::worker
