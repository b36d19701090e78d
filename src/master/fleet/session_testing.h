#pragma once

// What tests of a WorkerSession stand between: streams that take everything, and a listener that
// remembers.

#include <cstdint>
#include <vector>

#include "master/fleet/worker_session.h"

namespace fathom::master {

template <typename Message>
class OpenSink final : public MessageSink<Message> {
 public:
  bool Send(Message) override { return true; }
  void Abort() override {}
};

struct RecordingListener final : SubmissionListener {
  void OnAccepted(uint32_t) override {}
  void OnRejected(uint32_t, const absl::Status&, absl::Duration) override {}
  void OnOutput(SubmissionOutput output) override {
    tokens.insert(tokens.end(), output.tokens.begin(), output.tokens.end());
  }
  void OnWorkerLost(uint32_t attempt, const WorkerLoss& loss) override {
    lost.push_back(attempt);
    kinds.push_back(loss.kind);
  }

  std::vector<TokenId> tokens;
  std::vector<uint32_t> lost;  // attempts
  std::vector<LossKind> kinds;
};

}  // namespace fathom::master
