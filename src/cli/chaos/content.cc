#include "cli/chaos/content.h"

#include <algorithm>

namespace fathom::cli {

TextErrors CompareText(std::string_view expected, std::string_view got) {
  const size_t shorter = std::min(expected.size(), got.size());
  size_t head = 0;
  while (head < shorter && expected[head] == got[head]) ++head;
  size_t tail = 0;
  while (tail < shorter - head &&
         expected[expected.size() - 1 - tail] == got[got.size() - 1 - tail]) {
    ++tail;
  }
  const auto instead = static_cast<int64_t>(got.size() - head - tail);
  const auto wanted = static_cast<int64_t>(expected.size() - head - tail);
  return {.duplicated = std::max<int64_t>(0, instead - wanted),
          .missing = std::max<int64_t>(0, wanted - instead),
          .wrong = std::min(instead, wanted)};
}

Verdict Compare(const Content& expected, const Content& got, bool complete) {
  Verdict verdict;
  static const ChoiceContent kNothing;
  const auto judge = [&](const ChoiceContent& want, const ChoiceContent& have) {
    std::string_view text = want.text;
    // What ended early is compared with as much as it said; more than all is still too much.
    if (!complete && have.finish.empty()) text = text.substr(0, have.text.size());
    const TextErrors errors = CompareText(text, have.text);
    verdict.text.duplicated += errors.duplicated;
    verdict.text.missing += errors.missing;
    verdict.text.wrong += errors.wrong;
    if (!have.finish.empty() || complete) {
      verdict.wrong_end |= have.finish != want.finish;
      verdict.wrong_logprobs |= have.logprobs != want.logprobs;
    }
  };
  for (const auto& [index, want] : expected.choices) {
    const auto have = got.choices.find(index);
    judge(want, have == got.choices.end() ? kNothing : have->second);
  }
  for (const auto& [index, have] : got.choices) {
    if (!expected.choices.contains(index)) judge(kNothing, have);
  }
  if (complete || got.has_usage) {
    verdict.wrong_usage = !got.has_usage || got.prompt_tokens != expected.prompt_tokens ||
                          got.output_tokens != expected.output_tokens;
  }
  return verdict;
}

}  // namespace fathom::cli
