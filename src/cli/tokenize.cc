// `fathom tokenize`: text to token ids and back, offline, as the server would do it.

#include <boost/json.hpp>
#include <cstdio>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/cluster/programs.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "text/text.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr size_t kInputBytesMax = size_t{64} << 20;

struct TokenizeFlags {
  std::vector<std::string> words;
  std::string model;
  bool decode = false;
  bool count = false;
  bool as_json = false;
};

absl::StatusOr<std::vector<text::TokenId>> ParseIds(const std::string& input,
                                                    const text::Tokenizer& tokenizer) {
  std::vector<text::TokenId> ids;
  for (const absl::string_view word :
       absl::StrSplit(input, absl::ByAnyChar(" \t\r\n,[]"), absl::SkipEmpty())) {
    text::TokenId id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0 || id >= tokenizer.vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", word, "' is no token id below ", tokenizer.vocab_size()));
    }
    ids.push_back(id);
  }
  return ids;
}

std::string TokensJson(const std::vector<text::TokenId>& ids, const text::Tokenizer& tokenizer) {
  json::array tokens;
  for (const text::TokenId id : ids)
    tokens.push_back(json::value(tokenizer.IdToToken(id).value_or("")));
  return json::serialize(json::object{{"count", ids.size()},
                                      {"token_ids", json::array(ids.begin(), ids.end())},
                                      {"tokens", std::move(tokens)}}) +
         "\n";
}

absl::Status Run(const TokenizeFlags& flags) {
  std::string folder = flags.model;
  if (folder.empty()) {
    ASSIGN_OR_RETURN(folder, FindDefaultModel());
  }
  ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::FromDirectory(folder));
  std::string input = absl::StrJoin(flags.words, " ");
  if (flags.words.empty() || input == "-") {
    ASSIGN_OR_RETURN(input, ReadAllStdin(kInputBytesMax));
  }
  std::vector<text::TokenId> ids;
  std::string out;
  if (flags.decode) {
    ASSIGN_OR_RETURN(ids, ParseIds(input, *tokenizer));
    ASSIGN_OR_RETURN(const std::string text, tokenizer->Decode(ids, /*skip_special_tokens=*/false));
    out = flags.as_json ? json::serialize(json::object{{"text", text}}) + "\n" : text;
    // Byte for byte into a file or a pipe; a terminal wants its line ended, and no control
    // characters.
    if (!flags.as_json && StdoutIsTerminal()) out = Printable(out) + "\n";
  } else {
    ASSIGN_OR_RETURN(ids, tokenizer->Encode(input));
    out = flags.as_json ? TokensJson(ids, *tokenizer) : absl::StrJoin(ids, " ") + "\n";
  }
  if (flags.count) out = absl::StrCat(ids.size(), "\n");
  std::fwrite(out.data(), 1, out.size(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app.add_subcommand(
      "tokenize", "Text to token ids, as the server reads a completion's prompt; needs no server");
  command->add_option("text", flags->words,
                      "The text, or ids with --decode; without it, or for -, stdin byte for byte");
  command->add_option("--model", flags->model, "Model directory; default models/tiny")
      ->type_name("DIR");
  command->add_flag("--decode", flags->decode, "Token ids to text");
  CLI::Option* const count =
      command->add_flag("--count", flags->count, "Print only how many tokens there are");
  command->add_flag("--json", flags->as_json, "Print JSON: count, token_ids, tokens; or text")
      ->excludes(count);
  command->callback([flags, &context] { context.exit_code = Report(Run(*flags)); });
}

}  // namespace fathom::cli
