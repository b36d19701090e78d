#pragma once

// What the load of a chaos run asks: so many different questions, each in the form of every
// protocol. Of simulated workers the right answer is known beforehand; of real ones it is taken
// from the undisturbed cluster. Pure.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/chaos/content.h"
#include "common/domain.h"
#include "fathom/v1/inference.pb.h"

namespace fathom::cli {

enum class Form { kStream, kOneShot, kGrpc };
inline constexpr Form kForms[] = {Form::kStream, Form::kOneShot, Form::kGrpc};
const char* NameOf(Form form);

struct Question {
  std::string name;  // "greedy-3"
  // One of the two.
  std::string chat;             // what the user says
  std::vector<TokenId> tokens;  // to a simulated worker
  float temperature = 0;
  std::optional<uint64_t> seed;
  int32_t max_tokens = 0;
  int32_t n = 1;
  bool ignore_eos = true;
  bool logprobs = false;
  float frequency_penalty = 0;
  std::string schema;  // JSON; the answer keeps it
  std::vector<std::string> stop;
};

struct HttpQuestion {
  std::string target;
  std::string body;
};
HttpQuestion ToHttp(const Question& question, const std::string& model, bool stream);
v1::GenerateRequest ToGrpc(const Question& question, const std::string& model);

// Greedy, sampled, with penalties, three choices, logprobs, a JSON schema, stop strings.
std::vector<Question> RealQuestions();

struct SimulatedShape {
  int32_t input_low = 20;
  int32_t input_high = 400;
  int32_t output_low = 50;
  int32_t output_high = 300;
};
// Question number `index`; a million of them take no memory.
Question SimulatedQuestion(const SimulatedShape& shape, uint64_t seed, uint64_t index);
Content SimulatedAnswer(const Question& question);

}  // namespace fathom::cli
