#include "benchmarks/router_sim/trace.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/strings.h"

namespace fathom::router_sim {
namespace {

constexpr int32_t kContextMax = 60'000;
constexpr int32_t kVocabulary = 100'000;

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  double Exponential(double mean) { return -mean * std::log(1 - random_.NextUnit()); }
  int32_t Uniform(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random_.NextUnit() * (high - low + 1));
  }
  bool Chance(double p) { return random_.NextUnit() < p; }
  // Log-normal: `median`, and a tail that `sigma` makes heavier.
  int32_t LogNormal(double median, double sigma, int32_t low, int32_t high) {
    const double u = std::sqrt(-2 * std::log(1 - random_.NextUnit()));
    const double normal = u * std::cos(2 * M_PI * random_.NextUnit());
    return static_cast<int32_t>(std::clamp<double>(median * std::exp(sigma * normal), low, high));
  }
  // Steps of a session, at least 1.
  int32_t Geometric(double mean) {
    return 1 + static_cast<int32_t>(std::log(1 - random_.NextUnit()) / std::log(1 - 1 / mean));
  }
  Segment Fresh(int32_t tokens) { return {++last_content_, tokens}; }

 private:
  SeededRandom random_;
  uint64_t last_content_ = uint64_t{1} << 32;
};

// Some texts that many share; the k-th is asked for in proportion to 1 / k.
class Library {
 public:
  Library(Generator& generator, int32_t count, int32_t low, int32_t high) : generator_(generator) {
    for (int32_t i = 0; i < count; ++i) {
      texts_.push_back(generator.Fresh(generator.Uniform(low, high)));
      weight_ += 1.0 / (i + 1);
    }
  }
  Segment Draw() {
    double left = generator_.Uniform(0, 1 << 30) * weight_ / (1 << 30);
    for (size_t i = 0; i < texts_.size(); ++i) {
      left -= 1.0 / static_cast<double>(i + 1);
      if (left <= 0) return texts_[i];
    }
    return texts_.back();
  }

 private:
  Generator& generator_;
  std::vector<Segment> texts_;
  double weight_ = 0;
};

int32_t TokensOf(const std::vector<Segment>& segments) {
  int32_t tokens = 0;
  for (const Segment& s : segments) tokens += s.tokens;
  return tokens;
}

// One request after what came before, which then belongs to the context.
Step Turn(double wait_s, Segment prompt, Segment output) {
  return {.wait_s = wait_s,
          .branches = {{.extra = {prompt}, .output = output}},
          .carry = {prompt, output}};
}

// Conversations of a few turns under one of twelve system prompts.
class Chat {
 public:
  explicit Chat(Generator& g) : g_(g), system_(g, 12, 300, 2000) {}
  Session Make() {
    Session session{.context = {system_.Draw()}};
    const int32_t turns = g_.Geometric(6);
    for (int32_t i = 0; i < turns; ++i) {
      session.steps.push_back(Turn(i == 0 ? 0 : g_.Exponential(15),
                                   g_.Fresh(g_.LogNormal(60, 1.0, 4, 4000)),
                                   g_.Fresh(g_.LogNormal(200, 0.7, 8, 1500))));
    }
    return session;
  }

 private:
  Generator& g_;
  Library system_;
};

// Questions on one of 500 long documents, some hot; a third asks again.
class Rag {
 public:
  explicit Rag(Generator& g)
      : g_(g), instruction_(g, 1, 400, 400), documents_(g, 500, 3000, 20'000) {}
  Session Make() {
    Session session{.context = {instruction_.Draw(), documents_.Draw()}};
    const int32_t questions = g_.Chance(1.0 / 3) ? 2 : 1;
    for (int32_t i = 0; i < questions; ++i) {
      session.steps.push_back(Turn(i == 0 ? 0 : g_.Exponential(20), g_.Fresh(g_.Uniform(20, 120)),
                                   g_.Fresh(g_.LogNormal(120, 0.6, 8, 800))));
    }
    return session;
  }

 private:
  Generator& g_;
  Library instruction_;
  Library documents_;
};

// Agents: tools' results make a long context; now and then several lines of work go on from it at
// once.
class Agent {
 public:
  explicit Agent(Generator& g) : g_(g), tools_(g, 4, 2500, 5000) {}
  Session Make() {
    Session session{.context = {tools_.Draw(), g_.Fresh(g_.LogNormal(300, 1.0, 30, 6000))}};
    const int32_t steps = g_.Geometric(12);
    int32_t context = TokensOf(session.context);
    for (int32_t i = 0; i < steps && context < kContextMax; ++i) {
      const double wait_s = i == 0 ? 0 : 0.3 + g_.Exponential(2);
      const Segment result = g_.Fresh(g_.LogNormal(700, 1.0, 20, 8000));
      if (i > 0 && g_.Chance(0.15)) {
        session.steps.push_back(FanOut(wait_s, result));
      } else {
        session.steps.push_back(Turn(wait_s, result, g_.Fresh(g_.LogNormal(120, 0.7, 8, 1000))));
      }
      context += TokensOf(session.steps.back().carry);
    }
    return session;
  }

 private:
  Step FanOut(double wait_s, Segment result) {
    Step step{.wait_s = wait_s, .carry = {result}};
    const int32_t branches = g_.Uniform(3, 6);
    for (int32_t b = 0; b < branches; ++b) {
      step.branches.push_back({.extra = {result, g_.Fresh(g_.Uniform(30, 200))},
                               .output = g_.Fresh(g_.LogNormal(200, 0.7, 8, 1000))});
      step.carry.push_back(step.branches.back().output);
    }
    return step;
  }

  Generator& g_;
  Library tools_;
};

template <typename Kind>
Trace Make(double sessions_per_s, double duration_s, uint64_t seed) {
  Generator generator(seed);
  Kind kind(generator);
  Trace trace;
  for (double at = generator.Exponential(1 / sessions_per_s); at < duration_s;
       at += generator.Exponential(1 / sessions_per_s)) {
    trace.sessions.push_back(kind.Make());
    trace.sessions.back().start_s = at;
  }
  return trace;
}

}  // namespace

absl::StatusOr<Trace> MakeTrace(std::string_view name, double sessions_per_s, double duration_s,
                                uint64_t seed) {
  if (name == "chat") return Make<Chat>(sessions_per_s, duration_s, seed);
  if (name == "rag") return Make<Rag>(sessions_per_s, duration_s, seed);
  if (name == "agent") return Make<Agent>(sessions_per_s, duration_s, seed);
  return absl::InvalidArgumentError(
      absl::StrCat("no trace '", ToAbsl(name), "': chat, rag or agent"));
}

TokenId TokenOf(uint64_t content, int32_t position) {
  uint64_t z = content * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(position);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return static_cast<TokenId>((z ^ (z >> 31)) % kVocabulary);
}

void AppendTokens(const Segment& segment, std::vector<TokenId>* tokens) {
  for (int32_t i = 0; i < segment.tokens; ++i) tokens->push_back(TokenOf(segment.content, i));
}

}  // namespace fathom::router_sim
