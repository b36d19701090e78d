#include <boost/json.hpp>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "cli/chat_client.h"
#include "cli/command.h"
#include "cli/exit_codes.h"
#include "cli/server.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr size_t kPromptBytesMax = 16 << 20;

struct ChatFlags {
  ServerFlags server;
  std::vector<std::string> prompt;
  std::string system;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int> top_k;
  std::optional<int> max_tokens;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  bool raw = false;
  bool stats = false;
};

class Chat {
 public:
  Chat(const ChatFlags& flags, Server server, ShutdownSignal& shutdown)
      : flags_(flags),
        client_(server.url, HttpOptions{.key = server.key}),
        model_(std::move(server.model)),
        shutdown_(shutdown) {
    Forget();
  }

  // Asks once and prints the answer.
  absl::Status AskOnce(const std::string& prompt) {
    RETURN_IF_ERROR(LearnModel());
    return Ask(prompt, flags_.stats);
  }

  // Until the end of the input. A failed question is said and forgotten.
  absl::Status Converse() {
    RETURN_IF_ERROR(LearnModel());
    std::fprintf(stderr, "%s at %s. /reset forgets the talk, Ctrl-D leaves.\n", model_.c_str(),
                 client_.url().authority().c_str());
    LineReader lines(shutdown_);
    while (true) {
      std::fputs("\n> ", stderr);
      const std::optional<std::string> line = lines.Next();
      if (!line || *line == "/exit" || *line == "/quit") break;
      if (*line == "/reset") {
        Forget();
      } else if (!absl::StripAsciiWhitespace(*line).empty()) {
        if (const absl::Status status = Ask(*line, true); !status.ok()) Report(status);
      }
    }
    std::fputs("\n", stderr);
    return absl::OkStatus();
  }

 private:
  absl::Status LearnModel() {
    if (!model_.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(model_, FirstModel(client_));
    return absl::OkStatus();
  }

  void Forget() {
    messages_.clear();
    if (!flags_.system.empty()) {
      messages_.push_back(json::object{{"role", "system"}, {"content", flags_.system}});
    }
  }

  json::object Request() const {
    json::object request = {{"model", model_}, {"messages", messages_}};
    if (flags_.temperature) request["temperature"] = *flags_.temperature;
    if (flags_.top_p) request["top_p"] = *flags_.top_p;
    if (flags_.top_k) request["top_k"] = *flags_.top_k;
    if (flags_.max_tokens) request["max_tokens"] = *flags_.max_tokens;
    if (flags_.seed) request["seed"] = *flags_.seed;
    if (!flags_.stop.empty()) request["stop"] = json::value_from(flags_.stop);
    if (flags_.raw) request["include_raw_output"] = true;
    return request;
  }

  absl::Status Ask(const std::string& prompt, bool stats) {
    messages_.push_back(json::object{{"role", "user"}, {"content", prompt}});
    client_.Resume();
    bool ends_line = true;
    const auto print = [&ends_line](std::string_view text) {
      const std::string shown = StdoutIsTerminal() ? Printable(text) : std::string(text);
      std::fwrite(shown.data(), 1, shown.size(), stdout);
      std::fflush(stdout);
      if (!shown.empty()) ends_line = shown.ends_with('\n');
    };
    absl::StatusOr<ChatAnswer> answer;
    {
      const InterruptWatch watch(shutdown_, [this] { client_.Cancel(); });
      answer = StreamChat(client_, Request(), print, *Clock::Real());
    }
    if (!ends_line) std::puts("");
    std::fflush(stdout);
    if (!answer.ok()) {
      messages_.pop_back();
      return answer.status();
    }
    messages_.push_back(json::object{{"role", "assistant"}, {"content", answer->text}});
    if (stats) PrintStats(*answer);
    return absl::OkStatus();
  }

  static void PrintStats(const ChatAnswer& answer) {
    std::fprintf(stderr, "[TTFT %.1f ms, %.1f tokens/s, %lld tokens after %lld of prompt, %s]\n",
                 absl::ToDoubleMilliseconds(answer.to_first_token), answer.tokens_per_second(),
                 static_cast<long long>(answer.completion_tokens),
                 static_cast<long long>(answer.prompt_tokens), answer.finish_reason.c_str());
  }

  const ChatFlags& flags_;
  HttpClient client_;
  std::string model_;
  ShutdownSignal& shutdown_;
  json::array messages_;
};

absl::Status Run(const ChatFlags& flags, ShutdownSignal& shutdown) {
  ASSIGN_OR_RETURN(Server server, FindServer(flags.server));
  std::string prompt;
  for (const std::string& word : flags.prompt) prompt += (prompt.empty() ? "" : " ") + word;
  Chat chat(flags, std::move(server), shutdown);
  if (prompt == "-" || (prompt.empty() && !StdinIsTerminal())) {
    ASSIGN_OR_RETURN(prompt, ReadAllStdin(kPromptBytesMax));
    if (absl::StripAsciiWhitespace(prompt).empty()) {
      return absl::InvalidArgumentError("stdin holds no prompt");
    }
  }
  return prompt.empty() ? chat.Converse() : chat.AskOnce(prompt);
}

}  // namespace

void AddChatCommand(CLI::App& app, CommandContext& context) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand(
      "chat", "Chat with a model: without a prompt interactively, else one answer on stdout");
  command->add_option("prompt", flags->prompt, "The question; - reads it from stdin");
  AddServerFlags(*command, flags->server);
  command->add_option("--system", flags->system, "System message")->type_name("TEXT");
  command->add_option("--temperature", flags->temperature, "0 always takes the best token");
  command->add_option("--top-p", flags->top_p,
                      "Sample from the tokens that make up this probability");
  command->add_option("--top-k", flags->top_k, "Sample from the k best tokens");
  command->add_option("--max-tokens", flags->max_tokens, "Length of the answer at most");
  command->add_option("--seed", flags->seed, "Same seed, same answer");
  command->add_option("--stop", flags->stop, "Text that ends the answer; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--raw", flags->raw,
                    "Show the model's raw output, reasoning and tool calls too");
  command->add_flag("--stats", flags->stats, "Say times and speeds on stderr");
  command->callback(
      [flags, &context] { context.exit_code = Report(Run(*flags, context.shutdown)); });
}

}  // namespace fathom::cli
