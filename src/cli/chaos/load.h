#pragma once

// Clients of several kinds that ask one question after the other, each on a thread of its own, and
// write down what came of it.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "cli/chaos/asker.h"
#include "cli/chaos/injection.h"
#include "cli/chaos/journal.h"
#include "cli/chaos/question.h"
#include "common/clock.h"

namespace fathom::cli {

struct LoadSetup {
  AskerSetup asker;
  std::vector<ClientKind> clients;
  int concurrency = 0;  // in all
  uint64_t seed = 0;
  std::string run_name;  // part of each request's name
  InjectionKind injection = InjectionKind::kNone;
  // Simulated workers: questions are made up, and their answers known.
  bool simulated = false;
  SimulatedShape shape;
};

// The questions of a run with their right answers. Immutable once learned.
class QuestionBook {
 public:
  explicit QuestionBook(const LoadSetup& setup) : setup_(setup) {}

  // Takes the right answers from the cluster, which nothing disturbs. Of simulated workers there is
  // nothing to learn.
  absl::Status Learn(const Clock& clock);
  // Question number `index` with the right answer in this form.
  std::pair<Question, Content> Take(uint64_t index, Form form) const;
  size_t learned() const { return answers_.size(); }

 private:
  const LoadSetup& setup_;
  std::vector<Question> questions_;
  std::map<std::pair<size_t, Form>, Content> answers_;
};

class ChaosLoad {
 public:
  // All outlive it. `start_ns` is when the run began.
  ChaosLoad(const LoadSetup& setup, const QuestionBook& book, Journal& journal, const Clock& clock,
            int64_t start_ns);
  ~ChaosLoad() { Finish(); }

  // No more questions; what is asked is waited for.
  void Stop() { stopping_ = true; }
  void Finish();
  // What is asked is not tried again when its connection breaks.
  void Abandon() { abandoned_ = true; }
  int64_t done() const { return done_; }
  int64_t running() const { return running_; }
  int64_t failed() const { return failed_; }

 private:
  void Run(ClientKind kind, size_t thread);
  void AskOne(Asker& asker, ClientKind kind, size_t thread, uint64_t turn);

  const LoadSetup& setup_;
  const QuestionBook& book_;
  Journal& journal_;
  const Clock& clock_;
  const int64_t start_ns_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> abandoned_ = false;
  std::atomic<int64_t> number_ = 0;
  std::atomic<int64_t> done_ = 0;
  std::atomic<int64_t> failed_ = 0;
  std::atomic<int64_t> running_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace fathom::cli
