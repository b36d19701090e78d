#include "cli/completion/scripts.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace fathom::cli {
namespace {

enum class Value { kNone, kFile, kFolder, kChoice, kOther };

struct Option {
  std::vector<std::string> names;  // with their dashes; empty: positional
  std::string description;
  Value value = Value::kNone;
  std::vector<std::string> choices;
};

struct Command {
  std::string path;  // "fathom bench serve"
  std::string name;
  std::string description;
  std::vector<Option> options;
  std::vector<Command> children;
};

Option ReadOption(const CLI::Option& from) {
  Option option{.description = from.get_description()};
  for (const std::string& name : from.get_lnames()) option.names.push_back("--" + name);
  for (const std::string& name : from.get_snames()) option.names.push_back("-" + name);
  if (from.get_type_size_max() == 0) return option;
  option.value = Value::kOther;
  const std::string type = from.get_type_name();
  const size_t open = type.find('{');  // as CLI::IsMember writes its set
  const size_t close = type.find('}');
  if (open != std::string::npos && close != std::string::npos && open < close) {
    option.value = Value::kChoice;
    option.choices = absl::StrSplit(type.substr(open + 1, close - open - 1), ',');
  } else if (type == "FILE") {
    option.value = Value::kFile;
  } else if (type == "DIR") {
    option.value = Value::kFolder;
  }
  return option;
}

Command ReadCommand(const CLI::App& app, const std::string& above) {
  Command command{.path = above.empty() ? app.get_name() : absl::StrCat(above, " ", app.get_name()),
                  .name = app.get_name(),
                  .description = app.get_description()};
  for (const CLI::Option* option : app.get_options())
    command.options.push_back(ReadOption(*option));
  for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
    command.children.push_back(ReadCommand(*child, command.path));
  }
  return command;
}

template <typename Visit>
void ForEach(const Command& command, const Visit& visit) {
  visit(command);
  for (const Command& child : command.children) ForEach(child, visit);
}

// The cases that lead from a command's path and the next word to the path of a sub command.
std::string StepPatterns(const Command& root) {
  std::vector<std::string> patterns;
  ForEach(root, [&](const Command& command) {
    for (const Command& child : command.children) {
      patterns.push_back(absl::StrCat("\"", child.path, "\""));
    }
  });
  return absl::StrJoin(patterns, " | ");
}

std::string BashValue(const Option& option) {
  switch (option.value) {
    case Value::kFile:
      return "COMPREPLY=($(compgen -f -- \"$cur\"))";
    case Value::kFolder:
      return "COMPREPLY=($(compgen -d -- \"$cur\"))";
    case Value::kChoice:
      return absl::StrCat("COMPREPLY=($(compgen -W '", absl::StrJoin(option.choices, " "),
                          "' -- \"$cur\"))");
    default:
      return ":";
  }
}

std::string FishQuote(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

std::string FishOption(const Command& command, const Option& option) {
  std::string line =
      absl::StrCat("complete -c fathom -n ", FishQuote("__fathom_at " + command.path));
  for (const std::string& name : option.names) {
    absl::StrAppend(&line,
                    name.substr(0, 2) == "--" ? " -l " + name.substr(2) : " -s " + name.substr(1));
  }
  switch (option.value) {
    case Value::kNone:
      break;
    case Value::kFile:
      line += " -r -F";
      break;
    case Value::kFolder:
      line += " -x -a '(__fish_complete_directories)'";
      break;
    case Value::kChoice:
      absl::StrAppend(&line, " -x -a ", FishQuote(absl::StrJoin(option.choices, " ")));
      break;
    case Value::kOther:
      line += " -x";
  }
  return absl::StrCat(line, " -d ", FishQuote(option.description), "\n");
}

}  // namespace

std::string BashCompletion(const CLI::App& app) {
  const Command root = ReadCommand(app, "");
  std::string values;
  std::string words;
  ForEach(root, [&](const Command& command) {
    std::vector<std::string> offered;
    for (const Command& child : command.children) offered.push_back(child.name);
    for (const Option& option : command.options) {
      if (option.names.empty()) continue;
      offered.insert(offered.end(), option.names.begin(), option.names.end());
      if (option.value == Value::kNone) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : option.names) {
        patterns.push_back(absl::StrCat("\"", command.path, " ", name, "\""));
      }
      absl::StrAppend(&values, "    ", absl::StrJoin(patterns, " | "), ")\n      ",
                      BashValue(option), "\n      return\n      ;;\n");
    }
    absl::StrAppend(&words, "    \"", command.path, "\") words='", absl::StrJoin(offered, " "),
                    "' ;;\n");
  });
  return absl::StrCat(
      "_fathom() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
      "  local path=fathom words= i\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case \"$path ${COMP_WORDS[i]}\" in\n      ",
      StepPatterns(root),
      ") path=\"$path ${COMP_WORDS[i]}\" ;;\n    esac\n  done\n"
      "  COMPREPLY=()\n  case \"$path $prev\" in\n",
      values, "  esac\n  case \"$path\" in\n", words,
      // Nothing to offer is no failure.
      "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n  return 0\n}\n"
      "complete -F _fathom fathom\n");
}

// zsh runs bash's completions.
std::string ZshCompletion(const CLI::App& app) {
  return absl::StrCat(
      "#compdef fathom\nautoload -U +X compinit && compinit\n"
      "autoload -U +X bashcompinit && bashcompinit\n",
      BashCompletion(app));
}

std::string FishCompletion(const CLI::App& app) {
  const Command root = ReadCommand(app, "");
  std::string out = absl::StrCat(
      "function __fathom_at\n  set -l path fathom\n"
      "  for word in (commandline -opc)[2..-1]\n    switch \"$path $word\"\n      case ",
      absl::StrReplaceAll(StepPatterns(root), {{" | ", " "}}),
      "\n        set path \"$path $word\"\n    end\n  end\n  test \"$path\" = \"$argv\"\nend\n"
      "complete -c fathom -f\n");
  ForEach(root, [&](const Command& command) {
    for (const Command& child : command.children) {
      absl::StrAppend(&out, "complete -c fathom -n ", FishQuote("__fathom_at " + command.path),
                      " -a ", child.name, " -d ", FishQuote(child.description), "\n");
    }
    for (const Option& option : command.options) {
      if (!option.names.empty()) out += FishOption(command, option);
    }
  });
  return out;
}

}  // namespace fathom::cli
