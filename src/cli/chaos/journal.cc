#include "cli/chaos/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr size_t kErrorBytesMax = 300;

absl::Status WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, "the journal");
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (fdatasync(fd) != 0) return absl::ErrnoToStatus(errno, "the journal");
  return absl::OkStatus();
}

// A tenth of a microsecond is enough.
double Ms(int64_t ns) { return static_cast<double>(ns - ns % 100) * 1e-6; }

std::string Line(const json::object& record) { return json::serialize(record) + "\n"; }

}  // namespace

absl::StatusOr<std::unique_ptr<Journal>> Journal::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  return std::unique_ptr<Journal>(new Journal(fd));
}

Journal::~Journal() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  close(fd_);
}

void Journal::Add(std::string line) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return waiting_.size() < kWaitingBytesMax || !status_.ok(); });
  if (status_.ok()) waiting_ += line;
}

absl::Status Journal::Flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return (waiting_.empty() && !writing_) || !status_.ok(); });
  return status_;
}

void Journal::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_ || !waiting_.empty()) {
    changed_.wait_for(lock, absl::ToChronoNanoseconds(kFlushEvery), [&] { return stopping_; });
    if (waiting_.empty()) continue;
    const std::string text = std::exchange(waiting_, {});
    writing_ = true;
    lock.unlock();
    absl::Status written = WriteAll(fd_, text);
    lock.lock();
    writing_ = false;
    if (status_.ok()) status_ = std::move(written);
    if (!status_.ok()) waiting_.clear();
    changed_.notify_all();
  }
}

std::string BeginRecord(const RequestBegin& begin, double at_ms) {
  return Line({{"record", "begin"},
               {"n", begin.number},
               {"client", NameOf(begin.client)},
               {"form", NameOf(begin.form)},
               {"question", begin.question},
               {"at_ms", at_ms}});
}

std::string EndRecord(int64_t number, const Asked& asked, const Verdict& verdict, double at_ms,
                      int64_t start_ns) {
  const Transcript& transcript = asked.transcript;
  json::object record{{"record", "end"},
                      {"n", number},
                      {"at_ms", at_ms},
                      {"ended", asked.status.ok() ? "ok"
                                : asked.hung      ? "hung"
                                                  : "error"},
                      {"tokens", transcript.content().output_tokens}};
  if (!asked.status.ok()) {
    record["error"] = absl::StrCat(absl::StatusCodeToString(asked.status.code()), ": ",
                                   asked.status.message().substr(0, kErrorBytesMax));
  }
  record["ids"] = json::array(transcript.ids().begin(), transcript.ids().end());
  json::array legs;
  for (const Leg& leg : asked.legs) {
    legs.push_back({leg.master, Ms(leg.from_ns - start_ns), Ms(leg.until_ns - start_ns)});
  }
  record["legs"] = std::move(legs);
  // Only what is wrong is written: most requests have none of it.
  const auto count = [&](const char* name, int64_t n) {
    if (n != 0) record[name] = n;
  };
  count("duplicated", verdict.text.duplicated);
  count("missing", verdict.text.missing);
  count("wrong", verdict.text.wrong);
  const auto flag = [&](const char* name, bool is) {
    if (is) record[name] = true;
  };
  flag("wrong_logprobs", verdict.wrong_logprobs);
  flag("wrong_end", verdict.wrong_end);
  flag("wrong_usage", verdict.wrong_usage);
  flag("injected", transcript.injected());
  if (!transcript.broken_rule().empty()) record["broken_rule"] = transcript.broken_rule();
  json::array gaps;
  for (const Gap& gap : transcript.long_gaps()) {
    gaps.push_back({Ms(gap.from_ns - start_ns), Ms(gap.length_ns)});
  }
  record["gaps"] = std::move(gaps);
  json::array histogram;
  for (const auto& [bucket, n] : transcript.gaps().buckets()) histogram.push_back({bucket, n});
  record["histogram"] = std::move(histogram);
  return Line(record);
}

std::string FaultRecord(const FaultBegin& fault, double at_ms) {
  json::object record{
      {"record", "fault"}, {"f", fault.number}, {"kind", NameOf(fault.kind)}, {"at_ms", at_ms}};
  if (fault.worker >= 0) record["worker"] = fault.worker;
  if (fault.master >= 0) record["master"] = fault.master;
  if (HitsDatabase(fault.kind)) record["everyone"] = true;
  if (!fault.detail.empty()) record["detail"] = fault.detail;
  record["ids"] = json::array(fault.ids.begin(), fault.ids.end());
  return Line(record);
}

std::string HealedRecord(int64_t number, double at_ms) {
  return Line({{"record", "healed"}, {"f", number}, {"at_ms", at_ms}});
}

}  // namespace fathom::cli
