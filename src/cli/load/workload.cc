#include "cli/load/workload.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/random.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

constexpr int32_t kLengthMax = 1 << 24;

// Token ids that every vocabulary has and that are, in most, pieces of ordinary words.
constexpr int32_t kTokenLow = 256;
constexpr int32_t kTokenHigh = 3000;

// One token each, or nearly, in most vocabularies.
constexpr std::array<std::string_view, 64> kWords = {
    "the",   "of",    "and", "to",    "in",    "is",    "was",   "for",   "on",   "that", "with",
    "as",    "by",    "at",  "from",  "it",    "are",   "be",    "an",    "or",   "this", "not",
    "have",  "one",   "two", "all",   "but",   "first", "time",  "other", "new",  "more", "when",
    "who",   "some",  "may", "year",  "after", "only",  "city",  "any",   "over", "such", "made",
    "under", "about", "up",  "into",  "then",  "name",  "world", "can",   "no",   "like", "used",
    "long",  "part",  "day", "place", "water", "work",  "line",  "book",  "end"};

// Streams of random numbers that have nothing to do with each other.
enum class Salt : uint64_t { kLength = 1, kPrefixChoice, kPrefix, kPrompt, kBlock };

SeededRandom RandomFor(uint64_t seed, Salt salt, uint64_t index) {
  SeededRandom mix(seed ^ (static_cast<uint64_t>(salt) << 56));
  SeededRandom random(mix.Next() + index * 0x9e3779b97f4a7c15ULL);
  return SeededRandom(random.Next());
}

int32_t Draw(Random& random, LengthRange range) {
  const auto width = static_cast<uint64_t>(range.high - range.low) + 1;
  return range.low + static_cast<int32_t>(random.Next() % width);
}

void AppendTokens(SeededRandom random, int32_t count, TokenPrompt& out) {
  for (int32_t i = 0; i < count; ++i) {
    out.push_back(kTokenLow + static_cast<TokenId>(random.Next() % (kTokenHigh - kTokenLow)));
  }
}

std::string ToText(const TokenPrompt& tokens) {
  std::string text;
  for (const TokenId token : tokens) {
    if (!text.empty()) text += ' ';
    text += kWords[static_cast<size_t>(token) % kWords.size()];
  }
  return text;
}

}  // namespace

absl::StatusOr<LengthRange> ParseLengthRange(std::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(ToAbsl(text), ':');
  LengthRange range;
  bool good = parts.size() <= 2 && absl::SimpleAtoi(parts.front(), &range.low) &&
              absl::SimpleAtoi(parts.back(), &range.high);
  good = good && range.low >= 1 && range.low <= range.high && range.high <= kLengthMax;
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", ToAbsl(text), "': a length is N or LOW:HIGH, from 1 to ", kLengthMax));
  }
  return range;
}

LoadItem Workload::Make(uint64_t index) const {
  if (!options_.trace.empty()) {
    const TraceEntry& entry = options_.trace[index % options_.trace.size()];
    return OfTokens(TracePrompt(entry, index), entry.output_len);
  }
  SeededRandom lengths = RandomFor(options_.seed, Salt::kLength, index);
  const int32_t output_len = Draw(lengths, options_.output);
  if (options_.dataset.empty()) return OfTokens(RandomPrompt(index), output_len);
  const DatasetEntry& entry = options_.dataset[index % options_.dataset.size()];
  LoadItem item{.output_len = entry.output_len > 0 ? entry.output_len : output_len};
  if (entry.messages_json.empty()) {
    item.prompt = TextPrompt{entry.prompt};
  } else {
    item.prompt = ChatPrompt{entry.messages_json};
  }
  return item;
}

LoadItem Workload::OfTokens(TokenPrompt tokens, int32_t output_len) const {
  LoadItem item{.output_len = output_len};
  if (options_.text) {
    item.prompt = TextPrompt{ToText(tokens)};
  } else {
    item.prompt = std::move(tokens);
  }
  return item;
}

TokenPrompt Workload::RandomPrompt(uint64_t index) const {
  TokenPrompt tokens;
  if (options_.prefix_len > 0) {
    SeededRandom choice = RandomFor(options_.seed, Salt::kPrefixChoice, index);
    const uint64_t prefix = choice.Next() % static_cast<uint64_t>(options_.num_prefixes);
    AppendTokens(RandomFor(options_.seed, Salt::kPrefix, prefix), options_.prefix_len, tokens);
  }
  SeededRandom random = RandomFor(options_.seed, Salt::kPrompt, index);
  const int32_t length = Draw(random, options_.input);
  AppendTokens(random, length, tokens);
  return tokens;
}

TokenPrompt Workload::TracePrompt(const TraceEntry& entry, uint64_t index) const {
  TokenPrompt tokens;
  for (const int64_t id : entry.hash_ids) {
    const int32_t left = entry.input_len - static_cast<int32_t>(tokens.size());
    if (left <= 0) break;
    AppendTokens(RandomFor(options_.seed, Salt::kBlock, static_cast<uint64_t>(id)),
                 std::min(left, kTraceBlockTokens), tokens);
  }
  // What no hash id names is this request's own.
  AppendTokens(RandomFor(options_.seed, Salt::kPrompt, index),
               entry.input_len - static_cast<int32_t>(tokens.size()), tokens);
  return tokens;
}

}  // namespace fathom::cli
