// The engine on models/tiny: what it answers, and that serving it in another way (batch, chunks,
// cache, preemption) changes no token.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/clock.h"
#include "text/text.h"
#include "worker/engine/engine.h"
#include "worker/engine/testing/collecting_sink.h"
#include "worker/model/kv_plan.h"

namespace fathom::worker {
namespace {

std::string ModelPath() { return std::string(std::getenv("FATHOM_SOURCE_DIR")) + "/models/tiny"; }

struct Question {
  std::string id;
  std::vector<TokenId> prompt;
  std::string expected;
};

class TinyModelTest : public testing::Test {
 protected:
  struct Setup {
    BackendKind backend = BackendKind::kFast;
    bool batch_invariant = true;
    int32_t max_step_tokens = 512;
    int32_t max_sequences = 16;
    int32_t num_blocks = 2000;
    bool prefix_cache = true;
  };

  static void SetUpTestSuite() {
    tokenizer_ = *text::Tokenizer::FromDirectory(ModelPath());
    template_ = *text::ChatTemplate::FromDirectory(ModelPath());
  }

  static void TearDownTestSuite() {
    tokenizer_ = nullptr;
    template_ = nullptr;
  }

  void Start(const Setup& setup) {
    engine_.reset();
    sink_ = std::make_unique<CollectingSink>();
    ModelOptions m;
    m.path = ModelPath();
    m.backend = setup.backend;
    m.batch_invariant = setup.batch_invariant;
    m.threads = 2;
    m.max_step_tokens = setup.max_step_tokens;
    m.max_logit_rows = std::min(256, setup.max_step_tokens);
    auto model = LoadModel(m);
    ASSERT_TRUE(model.ok()) << model.status();
    KvPlan plan;
    plan.num_blocks.assign((*model)->kv_spec().groups.size(), setup.num_blocks);
    plan.max_sequences = setup.max_sequences;
    plan.max_blocks_per_sequence = 4096 / (*model)->kv_spec().block_tokens;
    ASSERT_TRUE((*model)->AllocateKv(plan).ok());
    EngineOptions options = OptionsFor(**model, plan);
    options.max_step_tokens = setup.max_step_tokens;
    options.max_logit_rows = m.max_logit_rows;
    options.prefix_cache = setup.prefix_cache;
    auto compiler =
        text::GrammarCompiler::Create(tokenizer_, options.vocab_size, options.eos_token_ids);
    ASSERT_TRUE(compiler.ok()) << compiler.status();
    auto engine = Engine::Create(
        options, MakeModelExecutor(std::move(model).value(), setup.max_sequences).value(),
        MakeGrammarFactory(*compiler), sink_.get(), Clock::Real());
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(engine).value();
  }

  static std::vector<Question> Questions(int per_task) {
    std::vector<Question> questions;
    std::map<std::string, int> taken;
    std::ifstream file(ModelPath() + "/eval.jsonl");
    for (std::string line; std::getline(file, line);) {
      const boost::json::object o = boost::json::parse(line).as_object();
      if (taken[std::string(o.at("task").as_string())]++ >= per_task) continue;
      text::ChatTemplateInput input;
      const std::string messages = boost::json::serialize(o.at("messages"));
      input.messages_json = messages;
      const std::string tools = o.contains("tools") ? boost::json::serialize(o.at("tools")) : "";
      input.tools_json = tools;
      const auto text = template_->Render(input);
      EXPECT_TRUE(text.ok()) << text.status();
      questions.push_back({std::string(o.at("id").as_string()),
                           *tokenizer_->Encode(*text, {.add_special_tokens = false}),
                           std::string(o.at("expected").as_string())});
    }
    return questions;
  }

  static EngineRequest Ask(const Question& q, int32_t max_tokens = 256) {
    EngineRequest r;
    r.id = q.id;
    r.prompt = q.prompt;
    r.choices = {{0, {}}};
    r.sampling.temperature = 0;
    r.stop.max_tokens = max_tokens;
    return r;
  }

  // The text of an answer, without the token that ended it.
  static std::string Text(const Gathered& g) {
    std::vector<TokenId> tokens = g.tokens;
    if (g.finish == FinishReason::kStop && !tokens.empty()) tokens.pop_back();
    return *tokenizer_->Decode(tokens, false);
  }

  void AskAll(const std::vector<EngineRequest>& requests) {
    size_t ends = sink_->ends();
    for (const EngineRequest& r : requests) {
      ASSERT_TRUE(engine_->Submit(r).ok());
      ends += r.choices.size();
    }
    sink_->WaitForEnds(ends);
  }

  static std::shared_ptr<const text::Tokenizer> tokenizer_;
  static std::shared_ptr<const text::ChatTemplate> template_;
  std::unique_ptr<CollectingSink> sink_;
  std::unique_ptr<Engine> engine_;
};

std::shared_ptr<const text::Tokenizer> TinyModelTest::tokenizer_;
std::shared_ptr<const text::ChatTemplate> TinyModelTest::template_;

TEST_F(TinyModelTest, AnswersItsEvaluationExactly) {
  Start({.max_sequences = 64});
  const std::vector<Question> questions = Questions(8);
  ASSERT_GT(questions.size(), 100U);
  std::vector<EngineRequest> requests;
  for (const Question& q : questions) requests.push_back(Ask(q));
  AskAll(requests);
  int right = 0;
  for (const Question& q : questions) {
    const Gathered g = sink_->Of(q.id);
    EXPECT_EQ(g.finish, FinishReason::kStop) << q.id << ": " << g.error;
    const std::string text = Text(g);
    right += text == q.expected ? 1 : 0;
    if (text != q.expected)
      std::printf("%s: %s | %s\n", q.id.c_str(), text.c_str(), q.expected.c_str());
  }
  EXPECT_GE(right, static_cast<int>(questions.size()) - 1);
}

// Sampled and greedy, several choices, with penalties: everything a token may depend on.
std::vector<EngineRequest> Mixed(const std::vector<Question>& questions) {
  std::vector<EngineRequest> requests;
  for (size_t i = 0; i < questions.size(); ++i) {
    EngineRequest r;
    r.id = questions[i].id;
    r.prompt = questions[i].prompt;
    r.choices = {{0, {}}};
    if (i % 3 == 1) r.choices = {{0, {}}, {1, {}}, {2, {}}};
    r.sampling.temperature = i % 2 == 0 ? 0.0F : 1.2F;
    r.sampling.top_p = i % 4 == 1 ? 0.95F : 1.0F;
    r.sampling.frequency_penalty = i % 5 == 2 ? 0.3F : 0.0F;
    r.sampling.repetition_penalty = i % 7 == 3 ? 1.1F : 1.0F;
    r.sampling.seed = 1000 + i;
    r.stop.max_tokens = 48;
    r.stop.ignore_eos = i % 6 == 5;
    r.logprobs.output = i % 4 == 0;
    requests.push_back(std::move(r));
  }
  return requests;
}

TEST_F(TinyModelTest, TokensDoNotDependOnHowTheyAreServed) {
  const std::vector<EngineRequest> requests = Mixed(Questions(2));
  std::map<CollectingSink::Key, std::vector<TokenId>> expected;
  // One at a time, whole prompts, no cache.
  Start({.max_step_tokens = 2048, .max_sequences = 8, .prefix_cache = false});
  for (const EngineRequest& r : requests) AskAll({r});
  for (const auto& [key, g] : sink_->All()) expected[key] = g.tokens;

  const Setup ways[] = {
      {.max_step_tokens = 2048, .max_sequences = 64},
      {.max_step_tokens = 40, .max_sequences = 24},
      {.max_step_tokens = 33, .max_sequences = 16, .prefix_cache = false},
      {.max_step_tokens = 256, .max_sequences = 64, .num_blocks = 256},
  };
  for (const Setup& way : ways) {
    Start(way);
    AskAll(requests);
    for (const auto& [key, g] : sink_->All()) {
      EXPECT_EQ(g.tokens, expected[key]) << key.id << " choice " << key.choice << ": " << g.error
                                         << ", step tokens " << way.max_step_tokens;
    }
  }
}

TEST_F(TinyModelTest, ASecondAskIsServedFromTheCacheAlike) {
  Start({});
  Question q = Questions(1).front();
  while (q.prompt.size() < 100) q.prompt.insert(q.prompt.end(), q.prompt.begin(), q.prompt.end());
  AskAll({Ask(q)});
  const Gathered first = sink_->Of(q.id);
  q.id += "-again";
  AskAll({Ask(q)});
  const Gathered second = sink_->Of(q.id);
  EXPECT_EQ(first.cached_tokens, 0);
  EXPECT_GE(second.cached_tokens, 96);
  EXPECT_LT(second.cached_tokens, static_cast<int32_t>(q.prompt.size()));
  EXPECT_EQ(first.tokens, second.tokens);
}

TEST_F(TinyModelTest, AMigratedChoiceGoesOnWithTheSameTokens) {
  Start({});
  EngineRequest r = Ask(Questions(1).front());
  r.sampling.temperature = 1.5F;
  r.sampling.seed = 5;
  r.sampling.frequency_penalty = 0.5F;
  r.stop.ignore_eos = true;
  r.stop.max_tokens = 60;
  AskAll({r});
  const std::vector<TokenId> whole = sink_->Of(r.id).tokens;
  ASSERT_EQ(whole.size(), 60U);
  r.id = "moved";
  r.attempt = 2;
  r.choices[0].tokens.assign(whole.begin(), whole.begin() + 23);
  AskAll({r});
  const Gathered moved = sink_->Of("moved", 0, 2);
  EXPECT_EQ(moved.first_index, 23);
  EXPECT_EQ(moved.tokens, std::vector<TokenId>(whole.begin() + 23, whole.end()));
}

TEST_F(TinyModelTest, AGrammarHoldsAndIsReplayed) {
  Start({});
  EngineRequest r = Ask(Questions(1).front());
  r.id = "grammar";
  r.grammar = GrammarSpec{GrammarKind::kRegex, "[0-9]{3}-[a-f]{4}(xyz)+!"};
  r.sampling.temperature = 1.5F;
  r.sampling.seed = 3;
  AskAll({r});
  const Gathered whole = sink_->Of("grammar");
  ASSERT_EQ(whole.finish, FinishReason::kStop) << whole.error;
  const std::string text = *tokenizer_->Decode(whole.tokens, true);
  EXPECT_EQ(text.substr(3, 1), "-") << text;
  EXPECT_EQ(text.back(), '!') << text;
  EngineRequest rest = r;
  rest.id = "rest";
  rest.choices[0].tokens.assign(whole.tokens.begin(), whole.tokens.begin() + 4);
  AskAll({rest});
  std::vector<TokenId> joined = rest.choices[0].tokens;
  const Gathered tail = sink_->Of("rest");
  joined.insert(joined.end(), tail.tokens.begin(), tail.tokens.end());
  EXPECT_EQ(joined, whole.tokens);

  r.id = "bad";
  r.grammar->source = "(";
  AskAll({r});
  EXPECT_EQ(sink_->Of("bad").finish, FinishReason::kError);
  EXPECT_FALSE(sink_->Of("bad").error.empty());
}

TEST_F(TinyModelTest, PromptLogprobsAreThoseOfTheOutput) {
  Start({.max_step_tokens = 24});
  EngineRequest r = Ask(Questions(1).front());
  r.logprobs = {.output = true, .output_top = 2, .prompt = {}};
  AskAll({r});
  const Gathered out = sink_->Of(r.id);
  ASSERT_EQ(out.logprobs.size(), out.tokens.size());
  // The same tokens as a prompt: their logprobs must be what sampling reported.
  EngineRequest again = r;
  again.id = "again";
  again.prompt.insert(again.prompt.end(), out.tokens.begin(), out.tokens.end());
  again.logprobs = {.output = false, .output_top = 0, .prompt = 2};
  again.stop.max_tokens = 1;
  AskAll({again});
  const Gathered scored = sink_->Of("again");
  ASSERT_EQ(scored.prompt_logprobs.size(), again.prompt.size() - 1);
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    const PositionLogprobs& p = scored.prompt_logprobs[r.prompt.size() - 1 + i];
    EXPECT_EQ(p.chosen.token, out.tokens[i]);
    EXPECT_FLOAT_EQ(p.chosen.logprob, out.logprobs[i].chosen.logprob);
    ASSERT_EQ(p.top.size(), 2U);
    EXPECT_EQ(p.top[0].token, out.logprobs[i].top[0].token);
  }
}

}  // namespace
}  // namespace fathom::worker
