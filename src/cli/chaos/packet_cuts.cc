#include "cli/chaos/packet_cuts.h"

#include <sched.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/cluster/child_process.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(1);
// A device whose other end nobody reads.
constexpr char kHole[] = "hole0";

absl::Status RunCommand(std::vector<std::string> argv, const std::string& log_path) {
  argv.insert(argv.begin(), "/usr/bin/env");
  ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Start(argv, log_path));
  while (!process.Poll()) absl::SleepFor(kPoll);
  if (process.ended_well()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("`", absl::StrJoin(argv.begin() + 1, argv.end(), " "), "` failed; it said in ",
                   log_path, " why"));
}

}  // namespace

absl::Status PacketCuts::EnterOwnNetwork(const std::string& log_path) {
  if (unshare(CLONE_NEWNET) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("--netns: a network of its own takes root: ",
                     absl::ErrnoToStatus(errno, "unshare").message()));
  }
  const std::vector<std::vector<std::string>> commands = {
      {"ip", "link", "set", "lo", "up"},
      {"ip", "link", "add", kHole, "type", "veth", "peer", "name", "hole1"},
      {"ip", "link", "set", kHole, "up"},
      {"ip", "link", "set", "hole1", "up"},
      {"tc", "qdisc", "add", "dev", "lo", "clsact"}};
  for (const std::vector<std::string>& command : commands) {
    RETURN_IF_ERROR(RunCommand(command, log_path));
  }
  return absl::OkStatus();
}

absl::Status PacketCuts::Cut(int group, Relay::Direction direction) {
  std::vector<const char*> fields;
  if (direction != Relay::Direction::kFromTarget) fields.push_back("dport");
  if (direction != Relay::Direction::kToTarget) fields.push_back("sport");
  for (const uint16_t port : ports_[group]) {
    for (const char* field : fields) {
      const int filter = ++last_filter_;
      filters_[group].push_back(filter);
      RETURN_IF_ERROR(RunCommand({"tc",     "filter",   "add",    "dev",    "lo",
                                  "egress", "protocol", "ip",     "prio",   absl::StrCat(filter),
                                  "u32",    "match",    "ip",     field,    absl::StrCat(port),
                                  "0xffff", "action",   "mirred", "egress", "redirect",
                                  "dev",    kHole},
                                 log_path_));
    }
  }
  return absl::OkStatus();
}

absl::Status PacketCuts::Heal(int group) {
  for (const int filter : std::exchange(filters_[group], {})) {
    RETURN_IF_ERROR(RunCommand({"tc", "filter", "del", "dev", "lo", "egress", "protocol", "ip",
                                "prio", absl::StrCat(filter)},
                               log_path_));
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
