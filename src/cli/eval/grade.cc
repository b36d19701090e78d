#include "cli/eval/grade.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "cli/chat_client.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

// Above any expected answer; a model that runs on is wrong anyway.
constexpr int kAnswerTokensMax = 512;
constexpr absl::Duration kProgressPause = absl::Milliseconds(100);

json::object RequestFor(const Example& example, const std::string& model) {
  json::object request = {{"model", model},
                          {"messages", example.messages},
                          {"temperature", 0},
                          {"max_tokens", kAnswerTokensMax},
                          {"include_raw_output", true}};
  if (!example.tools.is_null()) request["tools"] = example.tools;
  return request;
}

class Grader {
 public:
  Grader(const std::vector<Example>& examples, std::string model, const Clock& clock)
      : examples_(examples), clock_(clock), answers_(examples.size()) {
    grades_.model = std::move(model);
  }

  // Asks examples until none is left; run by every asking thread.
  void AskAll(HttpClient& client) {
    while (!stopped_) {
      const size_t index = next_.fetch_add(1);
      if (index >= examples_.size()) return;
      absl::StatusOr<ChatAnswer> answer =
          CompleteChat(client, RequestFor(examples_[index], grades_.model), clock_);
      if (absl::IsCancelled(answer.status())) return;
      const std::lock_guard lock(mutex_);
      ++progress_.done;
      if (answer.ok() && IsMatch(answer->text, examples_[index].expected)) ++progress_.correct;
      answers_[index] = std::make_unique<absl::StatusOr<ChatAnswer>>(std::move(answer));
    }
  }

  void Stop() { stopped_ = true; }

  GradeProgress progress() {
    const std::lock_guard lock(mutex_);
    progress_.of = examples_.size();
    return progress_;
  }

  // Once no thread asks any more.
  Grades Finish(absl::Duration took) {
    for (size_t i = 0; i < examples_.size(); ++i) {
      if (answers_[i] == nullptr) {
        grades_.interrupted = true;
      } else {
        Count(examples_[i], *answers_[i]);
      }
    }
    grades_.took = took;
    return std::move(grades_);
  }

 private:
  void Count(const Example& example, const absl::StatusOr<ChatAnswer>& answer) {
    TaskScore& score = grades_.tasks[example.task];
    ++score.count;
    if (answer.ok()) {
      grades_.completion_tokens += answer->completion_tokens;
      if (IsMatch(answer->text, example.expected)) {
        ++score.correct;
        return;
      }
    } else {
      ++score.errors;
      if (grades_.first_error.ok()) grades_.first_error = answer.status();
    }
    if (grades_.misses.size() >= kMissesMax) return;
    grades_.misses.push_back({example.id, example.expected, answer.ok() ? answer->text : "",
                              answer.ok() ? "" : std::string(Message(answer.status()))});
  }

  const std::vector<Example>& examples_;
  const Clock& clock_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> stopped_ = false;
  std::mutex mutex_;
  GradeProgress progress_;                                            // protected by mutex_
  std::vector<std::unique_ptr<absl::StatusOr<ChatAnswer>>> answers_;  // protected by mutex_
  Grades grades_;  // model: constant; the rest is made by Finish
};

}  // namespace

TaskScore Grades::total() const {
  TaskScore sum;
  for (const auto& [name, score] : tasks) {
    sum.count += score.count;
    sum.correct += score.correct;
    sum.errors += score.errors;
  }
  return sum;
}

double Grades::exact_match() const {
  double sum = 0;
  for (const auto& [name, score] : tasks) sum += score.exact_match();
  return tasks.empty() ? 0 : sum / static_cast<double>(tasks.size());
}

absl::StatusOr<Grades> Grade(const Server& server, const std::vector<Example>& examples,
                             int concurrency, const Clock& clock, ShutdownSignal& shutdown,
                             const std::function<void(const GradeProgress&)>& on_progress) {
  const HttpOptions options{.key = server.key};
  std::string model = server.model;
  if (model.empty()) {
    HttpClient client(server.url, options);
    ASSIGN_OR_RETURN(model, FirstModel(client));
  }
  Grader grader(examples, std::move(model), clock);
  const absl::Duration start = clock.Monotonic();
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::atomic<int> asking = 0;
  {
    std::vector<std::jthread> threads;
    const auto count = std::min(static_cast<size_t>(concurrency), examples.size());
    for (size_t i = 0; i < count; ++i) {
      clients.push_back(std::make_unique<HttpClient>(server.url, options));
      ++asking;
      threads.emplace_back([&grader, &asking, client = clients.back().get()] {
        grader.AskAll(*client);
        --asking;
      });
    }
    while (asking > 0) {
      if (shutdown.WaitFor(kProgressPause)) {
        grader.Stop();
        for (const auto& client : clients) client->Cancel();
        break;
      }
      on_progress(grader.progress());
    }
  }
  on_progress(grader.progress());
  return grader.Finish(clock.Monotonic() - start);
}

}  // namespace fathom::cli
