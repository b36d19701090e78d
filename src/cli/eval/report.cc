#include "cli/eval/report.h"

#include <boost/json.hpp>

#include "absl/strings/str_format.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr size_t kBarCells = 30;

double PerSecond(int64_t count, absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

std::string Row(const std::string& name, const TaskScore& score, double exact_match) {
  return absl::StrFormat("%-14s %7d %8d %7d   %.4f\n", name, score.count, score.correct,
                         score.errors, exact_match);
}

}  // namespace

std::string GradesTable(const Grades& grades) {
  std::string table =
      absl::StrFormat("%-14s %7s %8s %7s   %s\n", "task", "asked", "correct", "errors", "match");
  for (const auto& [name, score] : grades.tasks) table += Row(name, score, score.exact_match());
  table += Row("exact_match", grades.total(), grades.exact_match());
  table += absl::StrFormat("%s, %.1f s, %.1f tokens/s%s\n", grades.model,
                           absl::ToDoubleSeconds(grades.took),
                           PerSecond(grades.completion_tokens, grades.took),
                           grades.interrupted ? ", interrupted: not all were asked" : "");
  return table;
}

std::string GradesJson(const Grades& grades, const std::string& data_path) {
  json::object tasks;
  for (const auto& [name, score] : grades.tasks) {
    tasks[name] = json::object{{"count", score.count},
                               {"correct", score.correct},
                               {"errors", score.errors},
                               {"exact_match", score.exact_match()}};
  }
  json::array misses;
  for (const Miss& miss : grades.misses) {
    json::object entry = {{"id", miss.id}, {"expected", miss.expected}, {"answer", miss.answer}};
    if (!miss.error.empty()) entry["error"] = miss.error;
    misses.push_back(std::move(entry));
  }
  const TaskScore total = grades.total();
  const json::object object = {
      {"data", data_path},
      {"model", grades.model},
      {"count", total.count},
      {"correct", total.correct},
      {"errors", total.errors},
      {"exact_match", grades.exact_match()},
      {"tasks", std::move(tasks)},
      {"seconds", absl::ToDoubleSeconds(grades.took)},
      {"tokens_per_second", PerSecond(grades.completion_tokens, grades.took)},
      {"misses", std::move(misses)},
      {"interrupted", grades.interrupted}};
  return json::serialize(object) + "\n";
}

std::string ProgressLine(const GradeProgress& progress, absl::Duration since_start) {
  const size_t filled = progress.of == 0 ? 0 : kBarCells * progress.done / progress.of;
  const std::string bar = std::string(filled, '#') + std::string(kBarCells - filled, '.');
  const double match = progress.done == 0 ? 0
                                          : static_cast<double>(progress.correct) /
                                                static_cast<double>(progress.done);
  return absl::StrFormat("[%s] %d/%d  match %.3f  %.1f/s", bar, progress.done, progress.of, match,
                         PerSecond(static_cast<int64_t>(progress.done), since_start));
}

}  // namespace fathom::cli
