#pragma once

// What a load test shows: a table for people, JSON for programs, a progress line. Pure.

#include <string>

#include "cli/load/runner.h"

namespace fathom::cli {

std::string LoadTable(const LoadOutcome& outcome);
// `setup_json`: an object that says what was run.
std::string LoadJson(const LoadOutcome& outcome, const std::string& setup_json);
// `of`: the requests there will be; 0: not known.
std::string LoadProgressLine(const LoadProgress& progress, int64_t of);

}  // namespace fathom::cli
