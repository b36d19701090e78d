#include "cli/chaos/load.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kPauseAfterFailure = absl::Milliseconds(100);
// Of the questions of an HTTP client, one in so many is asked in one piece.
constexpr uint64_t kOneShotEvery = 3;

std::unique_ptr<Asker> MakeAsker(ClientKind kind, const AskerSetup& setup, const Clock& clock,
                                 uint64_t seed) {
  if (kind == ClientKind::kOurs) return MakeGrpcAsker(setup, clock, seed);
  return MakeHttpAsker(setup, kind == ClientKind::kResuming, clock, seed);
}

Form FormOf(ClientKind kind, uint64_t turn) {
  if (kind == ClientKind::kOurs) return Form::kGrpc;
  return turn % kOneShotEvery == kOneShotEvery - 1 ? Form::kOneShot : Form::kStream;
}

}  // namespace

absl::Status QuestionBook::Learn(const Clock& clock) {
  if (setup_.simulated) return absl::OkStatus();
  questions_ = RealQuestions();
  const auto http = MakeHttpAsker(setup_.asker, /*resumes=*/false, clock, setup_.seed);
  const auto grpc = MakeGrpcAsker(setup_.asker, clock, setup_.seed);
  for (size_t i = 0; i < questions_.size(); ++i) {
    for (const Form form : kForms) {
      Asker& asker = form == Form::kGrpc ? *grpc : *http;
      Asked asked = asker.Ask(questions_[i], form,
                              absl::StrCat(setup_.run_name, "-learn-", i, "-", NameOf(form)), 0,
                              Injector(InjectionKind::kNone, 0));
      if (!asked.status.ok()) {
        return absl::InternalError(
            absl::StrCat("question ", questions_[i].name, " (", NameOf(form),
                         ") of the undisturbed cluster: ", asked.status.message()));
      }
      answers_[{i, form}] = asked.transcript.content();
    }
  }
  return absl::OkStatus();
}

std::pair<Question, Content> QuestionBook::Take(uint64_t index, Form form) const {
  if (setup_.simulated) {
    Question question = SimulatedQuestion(setup_.shape, setup_.seed, index);
    Content answer = SimulatedAnswer(question);
    return {std::move(question), std::move(answer)};
  }
  const size_t i = index % questions_.size();
  return {questions_[i], answers_.at({i, form})};
}

ChaosLoad::ChaosLoad(const LoadSetup& setup, const QuestionBook& book, Journal& journal,
                     const Clock& clock, int64_t start_ns)
    : setup_(setup), book_(book), journal_(journal), clock_(clock), start_ns_(start_ns) {
  for (int i = 0; i < setup_.concurrency; ++i) {
    const auto thread = static_cast<size_t>(i);
    threads_.emplace_back(
        [this, thread] { Run(setup_.clients[thread % setup_.clients.size()], thread); });
  }
}

void ChaosLoad::Finish() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void ChaosLoad::Run(ClientKind kind, size_t thread) {
  AskerSetup setup = setup_.asker;
  setup.abandoned = &abandoned_;
  const std::unique_ptr<Asker> asker =
      MakeAsker(kind, setup, clock_, setup_.seed + thread * 0x9e3779b97f4a7c15ULL);
  for (uint64_t turn = 0; !stopping_; ++turn) AskOne(*asker, kind, thread, turn);
}

void ChaosLoad::AskOne(Asker& asker, ClientKind kind, size_t thread, uint64_t turn) {
  const int64_t number = number_++;
  const Form form = FormOf(kind, turn + thread);
  const auto [question, right] = book_.Take(static_cast<uint64_t>(number), form);
  const auto now_ms = [&] { return static_cast<double>(clock_.MonotonicNs() - start_ns_) * 1e-6; };
  journal_.Add(BeginRecord(
      {.number = number, .client = kind, .form = form, .question = question.name}, now_ms()));
  ++running_;
  const Asked asked = asker.Ask(question, form, absl::StrCat(setup_.run_name, "-", number),
                                thread + static_cast<size_t>(turn),
                                Injector(setup_.injection, static_cast<uint64_t>(number)));
  --running_;
  ++done_;
  const Verdict verdict = Compare(right, asked.transcript.content(), asked.status.ok());
  journal_.Add(EndRecord(number, asked, verdict, now_ms(), start_ns_));
  if (asked.status.ok()) return;
  ++failed_;
  absl::SleepFor(kPauseAfterFailure);
}

}  // namespace fathom::cli
