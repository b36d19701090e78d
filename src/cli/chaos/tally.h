#pragma once

// A journal added up. Pure, apart from reading the file.
//
// A request *met* a fault when it ran on the worker that was disturbed, at that moment and as its
// masters knew it (a one-shot request is known only once it has been answered), or was at the
// master that was, or came there before it was back; every request that was under way while the
// database was disturbed met that. Its *stall*, once for each fault it met, is
// the longest pause between two pieces of output among those that began before the fault was over
// (and 250 ms more) and ended after it struck, less the median pause of the same request.

#include <cstdint>
#include <istream>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/chaos/transcript.h"

namespace fathom::cli {

struct Counts {
  int64_t requests = 0;
  int64_t ok = 0;
  int64_t lost = 0;  // did not end ok; those that hung are among them
  int64_t hung = 0;
  int64_t resumed = 0;  // took more than one connection
  int64_t duplicated = 0;
  int64_t missing = 0;
  int64_t wrong = 0;
  int64_t wrong_usage = 0;
  int64_t wrong_end = 0;  // finish reason, logprobs or a rule of history
  std::vector<float> stalls_ms;

  bool right() const {
    return duplicated == 0 && missing == 0 && wrong == 0 && wrong_usage == 0 && wrong_end == 0;
  }
};

struct ClientTally {
  Counts all;
  std::map<std::string, Counts> by_fault;  // of the requests that met a fault of that kind
  std::map<std::string, int64_t> errors;   // what the lost ones were told
};

struct RunTally {
  std::map<std::string, ClientTally> clients;  // by kind
  std::map<std::string, int64_t> faults;       // by kind
  int64_t injected = 0;
  int64_t begun_and_not_ended = 0;  // the load itself was broken off
  int64_t stray_ends = 0;           // ends of what had not begun, or had ended before
  int64_t output_tokens = 0;
  double last_ms = 0;
  // Of requests that met no fault while others did; of all where there was none.
  GapHistogram bystanders;
  std::vector<std::string> fault_ids;  // of generations that met one, the latest ones
};

// DATA_LOSS names the line that is no record.
absl::StatusOr<RunTally> TallyJournal(std::istream& lines);

}  // namespace fathom::cli
