#pragma once

// What an answer said, and how far it is from what it should have said. Pure.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace fathom::cli {

struct ChoiceContent {
  std::string text;
  std::string logprobs;  // as they came, joined; empty where none were asked for
  std::string finish;    // why it ended; empty: it did not

  bool operator==(const ChoiceContent&) const = default;
};

struct Content {
  std::map<int32_t, ChoiceContent> choices;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  bool has_usage = false;

  bool operator==(const Content&) const = default;
};

// In tokens where one character is one token (simulated workers), else in characters.
struct TextErrors {
  int64_t duplicated = 0;
  int64_t missing = 0;
  int64_t wrong = 0;

  bool operator==(const TextErrors&) const = default;
};

// What stands between the common beginning and the common end: what is there in place of something
// else is wrong, what is there in addition is duplicated, what is not there is missing. Exact for
// one error; several in one text count as the stretch that holds them all.
TextErrors CompareText(std::string_view expected, std::string_view got);

struct Verdict {
  TextErrors text;
  bool wrong_logprobs = false;
  bool wrong_end = false;  // a finish reason, or choices
  bool wrong_usage = false;

  bool good() const {
    return text == TextErrors() && !wrong_logprobs && !wrong_end && !wrong_usage;
  }
};

// Of an answer that did not come to its end only what it said is judged, not what it left unsaid.
Verdict Compare(const Content& expected, const Content& got, bool complete);

}  // namespace fathom::cli
