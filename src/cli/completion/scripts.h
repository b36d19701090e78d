#pragma once

// Completion scripts for shells, written from the tree of commands itself, so that they cannot tell
// anything else than --help does. Pure.

#include <CLI/CLI.hpp>
#include <string>

namespace fathom::cli {

// `app` is the root; its name is the program's.
std::string BashCompletion(const CLI::App& app);
std::string ZshCompletion(const CLI::App& app);
std::string FishCompletion(const CLI::App& app);

}  // namespace fathom::cli
