// Whatever bytes a client sends: each request is answered once, with an answer that parses, and
// where the bytes were cut on their way changes nothing.

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/strings.h"
#include "fuzz/fake_stream.h"
#include "fuzz/feedback.h"
#include "fuzz/input.h"
#include "master/api/chat_page.h"
#include "master/api/errors.h"
#include "master/api/http_head.h"
#include "master/api/http_session.h"
#include "master/api/kserve_path.h"

namespace fathom::master {
namespace {

namespace http = boost::beast::http;

// Small, so that the fuzzer finds them.
const HttpLimits& Limits() {
  static const HttpLimits limits{.header_bytes = 1024, .body_bytes = 256, .bodies_bytes = 1 << 20};
  return limits;
}

struct Answered {
  http::verb method = http::verb::unknown;
  int status = 0;
  bool operator==(const Answered&) const = default;
};

class Pieces final : public BodySource {
 public:
  explicit Pieces(State end) : end_(end) {}
  State Pull(std::string& out) override {
    absl::StrAppend(&out, "data: ", ++num_pulled_, "\n\n");
    return num_pulled_ < 3 ? State::kMore : end_;
  }
  std::string_view Ping() const override { return ": ping\n\n"; }

 private:
  const State end_;
  int num_pulled_ = 0;
};

// What HttpApi does with a head, and an answer of each kind.
class Handler final : public HttpHandler {
 public:
  std::optional<HttpReply> Admit(HttpCall& call, HttpRecord& /*record*/) override {
    const absl::Status host =
        CheckHostAndOrigin(call.headers, /*loopback_only=*/true, call.http_10);
    fuzz::CheckSound(0, host);
    if (!host.ok()) return ErrorReply(host);
    if (call.path == "/refuse") return ErrorReply(401, "no");
    return std::nullopt;
  }
  void Handle(HttpCall call, std::shared_ptr<HttpExchange> exchange) override {
    calls.push_back(
        absl::StrCat(ToAbsl(http::to_string(call.method)), " ", call.path, " ", call.body));
    FATHOM_CHECK(call.body.size() <= Limits().body_bytes, "a body over the limit");
    FATHOM_CHECK(!call.request_id.empty() && UsableRequestId(call.request_id) == call.request_id,
                 "an id that cannot be printed");
    const KservePath kserve = ParseKservePath(call.path);
    FATHOM_CHECK(kserve.place == KservePlace::kNone || IsKservePath(call.path), "no such place");
    if (const PageFile* file = FindPageFile(call.path)) {
      const auto etag = call.headers[http::field::if_none_match];
      return exchange->Reply(PageReply(*file, {etag.data(), etag.size()}));
    }
    if (call.path == "/stream" || call.path == "/broken") {
      const auto end =
          call.path == "/stream" ? BodySource::State::kEnd : BodySource::State::kBroken;
      return exchange->Stream({.content_type = "text/event-stream"}, std::make_shared<Pieces>(end));
    }
    exchange->Reply({.content_type = "text/plain", .body = DecodePath(call.path) + call.body});
  }
  HttpReply Complaint(const HttpCall&, int status, std::string_view message) override {
    return ErrorReply(status, message);
  }
  void Done(const HttpCall& call, int status, int64_t, const HttpRecord&) override {
    broken = call.path == "/broken" && status == 200;
    answered.push_back({call.method, status});
  }

  std::vector<std::string> calls;
  std::vector<Answered> answered;
  bool broken = false;  // the last answer ends without an end
};

// Takes one answer off the front of `wire`.
void ParseAnswer(const Answered& expected, std::string_view& wire, bool may_break) {
  http::response_parser<http::string_body> parser;
  parser.skip(expected.method == http::verb::head);
  parser.eager(true);
  boost::system::error_code error;
  const size_t size = parser.put(boost::asio::buffer(wire.data(), wire.size()), error);
  FATHOM_CHECK(!error || (may_break && error == http::error::need_more),
               "an answer that does not parse");
  wire.remove_prefix(size);
  if (!parser.is_done() && parser.need_eof()) parser.put_eof(error);
  FATHOM_CHECK(parser.is_done() || may_break, "half an answer");
  if (!parser.is_done()) wire = {};
  const int status = static_cast<int>(parser.get().result_int());
  if (status == 100) return ParseAnswer(expected, wire, may_break);
  FATHOM_CHECK(status == expected.status, "another status than was counted");
}

struct Run {
  std::vector<std::string> calls;
  std::vector<Answered> answered;
  std::string written;
};

Run Serve(const std::vector<std::string_view>& pieces) {
  static auto& io = *new boost::asio::io_context(1);
  static const FakeClock clock;
  io.restart();
  Handler handler;
  BodyBudget budget(Limits().bodies_bytes);
  const auto wire = std::make_shared<fuzz::Wire>();
  wire->incoming = {pieces.begin(), pieces.end()};
  int num_ids = 0;
  const auto new_id = [&num_ids] { return absl::StrCat("id-", ++num_ids); };
  std::weak_ptr<void> alive;
  {
    using Session = HttpSession<fuzz::FakeStream>;
    const auto session =
        std::make_shared<Session>(fuzz::FakeStream(io.get_executor(), wire), "127.0.0.1", Limits(),
                                  budget, handler, clock, new_id);
    session->Start();
    alive = session;
  }
  io.poll();
  wire->End();
  io.restart();
  io.poll();
  FATHOM_CHECK(alive.expired() && wire->closed, "a session that does not end");
  FATHOM_CHECK(static_cast<bool>(budget.Take(Limits().bodies_bytes)), "bytes of bodies were lost");

  std::string_view left = wire->written;
  for (size_t i = 0; i < handler.answered.size(); ++i) {
    ParseAnswer(handler.answered[i], left, handler.broken && i + 1 == handler.answered.size());
  }
  FATHOM_CHECK(left.empty() || left == "HTTP/1.1 100 Continue\r\n\r\n",
               "more answers than requests");
  return {std::move(handler.calls), std::move(handler.answered), std::move(wire->written)};
}

// Of a head that is broken or too long, how much was read, and so its method, which of the two is
// said and which refusals of what follows come behind, depends on the pieces; so does, where a CR
// stands alone at its end and the client leaves, whether it is refused at all: Beast does not look
// back at a CR that came in an earlier piece. What is served must be the same.
bool SameButForBrokenHeads(const std::vector<Answered>& one, const std::vector<Answered>& other) {
  const auto broken = [](const Answered& answer) {
    return answer.status == 400 || answer.status == 431;
  };
  const auto [left, right] =
      std::ranges::mismatch(one, other, {}, &Answered::status, &Answered::status);
  return std::all_of(left, one.end(), broken) && std::all_of(right, other.end(), broken);
}

}  // namespace

// How to cut it, then what the client sends.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t seed = input.Byte();
  const std::string_view text = input.Rest();
  const Run whole = Serve({text});
  const Run cut = Serve(fuzz::Cut(text, seed));
  FATHOM_CHECK(whole.calls == cut.calls, "pieces make other requests");
  FATHOM_CHECK(SameButForBrokenHeads(whole.answered, cut.answered), "pieces make other answers");
  return 0;
}

}  // namespace fathom::master
