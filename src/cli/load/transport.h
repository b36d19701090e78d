#pragma once

// How requests get to a server and answers back. Each is started and forgotten; its end is told
// once.

#include <cstdint>
#include <functional>
#include <string>

#include "cli/load/answer.h"
#include "cli/load/workload.h"

namespace fathom::cli {

// What all requests of a run have in common.
struct RequestOptions {
  std::string model;
  bool ignore_eos = false;
  bool unary = false;            // OpenAI: whole answers instead of streams
  bool check_simulated = false;  // the workers are simulated ones: check every token
};

using AnswerSink = std::function<void(Answer)>;

class LoadTransport {
 public:
  // Ends what runs; no sink is called afterwards.
  virtual ~LoadTransport() = default;
  // From one thread. `sink` is called once, on a thread of the transport's, and must not block.
  virtual void Send(const LoadItem& item, int64_t scheduled_ns, AnswerSink sink) = 0;
  // Ends what runs with CANCELLED.
  virtual void CancelAll() = 0;
};

// The check an item's answer gets, if any.
std::optional<SimulatedTextCheck> CheckFor(const LoadItem& item, const RequestOptions& options);

}  // namespace fathom::cli
