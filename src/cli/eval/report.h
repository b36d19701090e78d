#pragma once

// What an evaluation shows: a table for people, JSON for programs, a bar while it runs.

#include <string>

#include "cli/eval/grade.h"

namespace fathom::cli {

std::string GradesTable(const Grades& grades);

// {"data", "model", "count", "correct", "errors", "exact_match", "tasks", "seconds",
// "tokens_per_second", "misses", "interrupted"}
std::string GradesJson(const Grades& grades, const std::string& data_path);

// One line without its end, for redrawing in place.
std::string ProgressLine(const GradeProgress& progress, absl::Duration since_start);

}  // namespace fathom::cli
