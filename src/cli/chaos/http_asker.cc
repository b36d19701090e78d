// Stock HTTP clients: one that takes what comes, and one that posts the same request again when its
// connection breaks.

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/chaos/asker.h"
#include "cli/chat_client.h"
#include "cli/http_client/http_client.h"
#include "cli/http_client/sse_parser.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(2);
// Of a stream. Longer than the 15 s after which masters write a comment.
constexpr absl::Duration kSilenceMax = absl::Seconds(20);
constexpr char kHeldFor[] = "30s";

// Whether a stock client posts again what was answered so.
bool WorthARetry(int http_status) {
  return http_status == 408 || http_status == 409 || http_status == 429 || http_status >= 500;
}

// One attempt's end.
struct Attempt {
  absl::Status status;
  bool final = false;  // the server has said its last word
};

class HttpAsker final : public Asker {
 public:
  HttpAsker(AskerSetup setup, bool resumes, const Clock& clock, uint64_t seed)
      : setup_(std::move(setup)), resumes_(resumes), clock_(clock), random_(seed) {}

  Asked Ask(const Question& question, Form form, const std::string& name, size_t first_master,
            Injector injector) override {
    const HttpQuestion request = ToHttp(question, setup_.model, form == Form::kStream);
    Asked asked{.transcript = Transcript(std::move(injector))};
    const absl::Duration deadline = clock_.Monotonic() + setup_.deadline;
    std::string last_id;
    for (int failures = 0;;) {
      const size_t master = (first_master + static_cast<size_t>(failures)) % setup_.masters.size();
      const bool anew = asked.transcript.pieces() == 0 && last_id.empty();
      Attempt attempt = Post(request, form, HeadersFor(name, last_id, failures), master,
                             deadline + setup_.margin, last_id, asked);
      asked.transcript.Flush();
      asked.status = std::move(attempt.status);
      if (asked.status.ok() || attempt.final || !resumes_) break;
      // What has begun can go on only behind an event that has a name.
      if (!anew && last_id.empty()) break;
      if (clock_.Monotonic() >= deadline || setup_.IsAbandoned()) break;
      absl::SleepFor(RetryPause(++failures, random_));
    }
    asked.hung =
        absl::IsDeadlineExceeded(asked.status) && clock_.Monotonic() >= deadline + setup_.margin;
    return asked;
  }

 private:
  HttpClient::Headers HeadersFor(const std::string& name, const std::string& last_id,
                                 int failures) const {
    HttpClient::Headers headers{{"X-Request-Id", name}};
    if (!resumes_) return headers;
    headers.emplace_back("Idempotency-Key", name);
    // As stock clients count for themselves.
    headers.emplace_back("X-Stainless-Retry-Count", absl::StrCat(failures));
    headers.emplace_back("X-Fathom-Resume", kHeldFor);
    if (!last_id.empty()) headers.emplace_back("Last-Event-ID", last_id);
    return headers;
  }

  // The client says which port it spoke to: that is another in every run.
  absl::Status WithoutAddress(const absl::Status& status, size_t master) const {
    const std::string address = absl::StrCat(setup_.masters[master].http.authority(), ": ");
    return absl::Status(status.code(), absl::StrReplaceAll(status.message(), {{address, ""}}));
  }

  Attempt Post(const HttpQuestion& request, Form form, const HttpClient::Headers& headers,
               size_t master, absl::Duration give_up, std::string& last_id, Asked& asked) {
    const absl::Duration left = give_up - clock_.Monotonic();
    if (left <= absl::ZeroDuration()) return {absl::DeadlineExceededError("no end in time"), true};
    // A connection of its own, so that nothing is sent twice behind our back.
    HttpClient client(
        setup_.masters[master].http,
        {.key = setup_.key,
         .connect_timeout = std::min(kConnectTimeout, left),
         .idle_timeout = resumes_ && form == Form::kStream ? std::min(kSilenceMax, left) : left});
    asked.legs.push_back({.master = master, .from_ns = clock_.MonotonicNs()});
    SseParser parser;
    absl::Status said;
    bool done = false;
    const auto sink = [&](std::string_view bytes) -> absl::Status {
      const int64_t now_ns = clock_.MonotonicNs();
      if (absl::Nanoseconds(now_ns) >= give_up) {
        return absl::DeadlineExceededError("no end of the stream in time");
      }
      return parser.Push(bytes, [&](const SseEvent& event) {
        if (event.data == "[DONE]") {
          done = true;
          asked.transcript.OnDone();
          return absl::OkStatus();
        }
        said = asked.transcript.OnOpenAi(event.data, now_ns);
        if (said.ok() && !event.id.empty()) last_id = event.id;
        return said;
      });
    };
    const absl::StatusOr<HttpResponse> response =
        client.Post(request.target, request.body,
                    form == Form::kStream ? HttpClient::Sink(sink) : nullptr, headers);
    asked.legs.back().until_ns = clock_.MonotonicNs();
    if (!said.ok()) return {said, true};
    if (!response.ok() && !done) return {WithoutAddress(response.status(), master), false};
    if (response.ok() && response->status != 200) {
      return {ErrorOf(*response), !WorthARetry(response->status)};
    }
    if (form == Form::kOneShot) {
      const absl::Status read = asked.transcript.OnOpenAi(response->body, clock_.MonotonicNs());
      if (!read.ok()) return {read, true};
    }
    return {asked.transcript.CheckComplete(form == Form::kStream), done || form == Form::kOneShot};
  }

  const AskerSetup setup_;
  const bool resumes_;
  const Clock& clock_;
  SeededRandom random_;
};

}  // namespace

std::unique_ptr<Asker> MakeHttpAsker(AskerSetup setup, bool resumes, const Clock& clock,
                                     uint64_t seed) {
  return std::make_unique<HttpAsker>(std::move(setup), resumes, clock, seed);
}

}  // namespace fathom::cli
