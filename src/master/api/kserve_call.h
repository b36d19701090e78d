#pragma once

// One inference over HTTP from its body to the last byte of its answer: infer and generate as a
// whole, generate_stream as server-sent events, behind which a client may go on that comes back.
// Lives on the exchange's strand; parsing of large bodies runs on the CPU pool.

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "master/api/delta_buffer.h"
#include "master/api/http_exchange.h"
#include "master/api/kserve_path.h"
#include "master/api/kserve_reply.h"
#include "master/api/kserve_request.h"
#include "master/api/resume.h"
#include "master/serving/serving.h"

namespace fathom::master {

struct KserveHttpOptions {
  absl::Duration timeout_max = absl::Minutes(10);
  size_t client_backlog_bytes = size_t{4} << 20;
  // A stream that has nothing to say for so long begins anyway; until then a failure still has its
  // own status.
  std::chrono::milliseconds silence_max{15'000};
};

class KserveCall final : public BodySource,
                         public GenerationSink,
                         public std::enable_shared_from_this<KserveCall> {
 public:
  // `serving` and `options` outlive it. `path` is that of an inference.
  KserveCall(KservePath path, Serving& serving, const KserveHttpOptions& options, HttpCall call,
             std::shared_ptr<HttpExchange> exchange);

  // Once, on the strand.
  void Start();

  State Pull(std::string& out) override;
  std::string_view Ping() const override { return ": ping\n\n"; }

  absl::Status OnDelta(GenerationDelta delta) override;
  void OnEnd(const absl::Status& status, const GenerationUsage& usage) override;

 private:
  struct Parsed {
    KserveRequest request;
    bool stream = false;
    ResumePlan resume;
  };
  absl::StatusOr<inference::ModelInferRequest> ReadBody() const;
  absl::StatusOr<Parsed> Parse() const;
  void HandleParsed(absl::StatusOr<Parsed> parsed);
  void Fail(const absl::Status& status);
  void BeginStream();
  HttpReply WholeReply() const;
  void AppendEvent(std::string& out, const GenerationDelta& delta, bool last);

  const KservePath path_;
  Serving& serving_;
  const KserveHttpOptions& options_;
  HttpCall call_;
  std::shared_ptr<HttpExchange> exchange_;

  // State below is touched on the strand alone.
  KserveReplyInfo info_;
  std::shared_ptr<Generation> generation_;
  bool stream_ = false;  // piece by piece; else all of it in one
  bool ended_ = false;
  bool gone_ = false;
  absl::Status end_;
  GenerationUsage usage_;
  GenerationDelta answer_;  // a whole answer
  DeltaBuffer deltas_;      // a streamed one
  std::optional<ResumeCursor> cursor_;
  bool usage_told_ = false;
  boost::asio::steady_timer silence_;
};

}  // namespace fathom::master
