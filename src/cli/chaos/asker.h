#pragma once

// The kinds of client that a chaos run watches: how each asks a question, and what it does when its
// connection breaks. One thread an asker.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/chaos/question.h"
#include "cli/chaos/transcript.h"
#include "cli/http_client/url.h"
#include "common/clock.h"
#include "common/random.h"

namespace fathom::cli {

enum class ClientKind {
  kPlain,     // stock HTTP, no retry
  kResuming,  // stock HTTP that posts the same body again: Last-Event-ID, Idempotency-Key
  kOurs,      // gRPC with our fields of resuming
};
inline constexpr ClientKind kClientKinds[] = {ClientKind::kOurs, ClientKind::kResuming,
                                              ClientKind::kPlain};
const char* NameOf(ClientKind kind);
// "ours,resuming,plain", any of them.
absl::StatusOr<std::vector<ClientKind>> ParseClientKinds(std::string_view text);

// Where clients go.
struct MasterAddress {
  Url http;
  std::string grpc;
};

struct AskerSetup {
  std::vector<MasterAddress> masters;
  std::string key;  // empty: none is asked for
  std::string model;
  absl::Duration deadline;  // of a request
  // Past it a request that has not ended counts as hung; the client gives it up.
  absl::Duration margin = absl::Seconds(5);
  // Set: nobody wants the answers any more, and nothing is tried again. May be null.
  const std::atomic<bool>* abandoned = nullptr;

  bool IsAbandoned() const { return abandoned != nullptr && *abandoned; }
};

// A time that a request spent on one master.
struct Leg {
  size_t master = 0;
  int64_t from_ns = 0;
  int64_t until_ns = 0;
};

struct Asked {
  absl::Status status;
  bool hung = false;  // no end by deadline and margin
  std::vector<Leg> legs;
  Transcript transcript;
};

class Asker {
 public:
  virtual ~Asker() = default;
  // Until the answer is whole, has failed for good, or the deadline has passed. `name` is unique
  // among all requests; `first_master` is where it begins.
  virtual Asked Ask(const Question& question, Form form, const std::string& name,
                    size_t first_master, Injector injector) = 0;
};

std::unique_ptr<Asker> MakeHttpAsker(AskerSetup setup, bool resumes, const Clock& clock,
                                     uint64_t seed);
std::unique_ptr<Asker> MakeGrpcAsker(AskerSetup setup, const Clock& clock, uint64_t seed);

// The pause before attempt number `failures` + 1: doubling, with jitter.
absl::Duration RetryPause(int failures, Random& random);

}  // namespace fathom::cli
