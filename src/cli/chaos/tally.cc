#include "cli/chaos/tally.h"

#include <algorithm>
#include <boost/json.hpp>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr double kAfterwardsMs = 250;
constexpr size_t kFaultIdsMax = 300;
constexpr size_t kErrorsMax = 100;

struct Fault {
  std::string kind;
  int64_t master = -1;
  double at_ms = 0;
  double until_ms = 0;
};

struct Begun {
  std::string client;
  double at_ms = 0;
};

int64_t IntAt(const json::object& object, std::string_view name, int64_t otherwise = 0) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_int64() ? value->get_int64() : otherwise;
}

bool FlagAt(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_bool() && value->get_bool();
}

double NumberOf(const json::value& value) {
  return value.is_double()  ? value.get_double()
         : value.is_int64() ? static_cast<double>(value.get_int64())
                            : 0;
}

double NumberAt(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value == nullptr ? 0 : NumberOf(*value);
}

std::string TextAt(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

const json::array& ArrayAt(const json::object& object, std::string_view name) {
  static const json::array kNone;
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_array() ? value->get_array() : kNone;
}

// Two passes: faults are known whole before requests are held against them.
class Tallier {
 public:
  void Add(const json::object& record) {
    const std::string what = TextAt(record, "record");
    tally_.last_ms = std::max(tally_.last_ms, NumberAt(record, "at_ms"));
    if (what == "begin") {
      begun_[IntAt(record, "n")] = {TextAt(record, "client"), NumberAt(record, "at_ms")};
    } else if (what == "end") {
      ends_.push_back(record);
    } else if (what == "fault") {
      AddFault(record);
    } else if (what == "healed") {
      const auto fault = faults_.find(IntAt(record, "f"));
      if (fault != faults_.end()) fault->second.until_ms = NumberAt(record, "at_ms");
    }
  }

  RunTally Finish() {
    std::sort(struck_ms_.begin(), struck_ms_.end());
    for (const json::object& end : ends_) AddEnd(end);
    tally_.begun_and_not_ended = static_cast<int64_t>(begun_.size());
    for (const auto& [n, begun] : begun_) {
      Counts& all = tally_.clients[begun.client].all;
      ++all.requests;
      ++all.lost;
      ++all.hung;
    }
    for (auto& [client, counts] : tally_.clients) {
      std::sort(counts.all.stalls_ms.begin(), counts.all.stalls_ms.end());
      for (auto& [kind, of_kind] : counts.by_fault) {
        std::sort(of_kind.stalls_ms.begin(), of_kind.stalls_ms.end());
      }
    }
    return std::move(tally_);
  }

 private:
  void AddFault(const json::object& record) {
    const int64_t number = IntAt(record, "f");
    const double at_ms = NumberAt(record, "at_ms");
    faults_[number] = {TextAt(record, "kind"), IntAt(record, "master", -1), at_ms, at_ms};
    ++tally_.faults[faults_[number].kind];
    struck_ms_.push_back(at_ms);
    for (const json::value& id : ArrayAt(record, "ids")) {
      if (!id.is_string()) continue;
      const std::string name(id.get_string());
      met_[name].push_back(number);
      tally_.fault_ids.push_back(name);
    }
    if (tally_.fault_ids.size() > kFaultIdsMax) {
      tally_.fault_ids.erase(tally_.fault_ids.begin(),
                             tally_.fault_ids.end() - static_cast<int64_t>(kFaultIdsMax));
    }
    if (faults_[number].master >= 0) master_faults_.push_back(number);
    if (FlagAt(record, "everyone")) faults_of_all_.push_back(number);
  }

  // The faults that a request met.
  std::set<int64_t> MetBy(const json::object& end, double began_ms) const {
    std::set<int64_t> met;
    const double ended_ms = NumberAt(end, "at_ms");
    for (const json::value& id : ArrayAt(end, "ids")) {
      const auto found = id.is_string() ? met_.find(std::string(id.get_string())) : met_.end();
      if (found == met_.end()) continue;
      for (const int64_t number : found->second) {
        if (faults_.at(number).at_ms >= began_ms && faults_.at(number).at_ms <= ended_ms) {
          met.insert(number);
        }
      }
    }
    for (const int64_t number : faults_of_all_) {
      const Fault& fault = faults_.at(number);
      if (began_ms <= fault.until_ms && ended_ms >= fault.at_ms) met.insert(number);
    }
    for (const int64_t number : master_faults_) {
      const Fault& fault = faults_.at(number);
      for (const json::value& value : ArrayAt(end, "legs")) {
        const json::array* leg = value.if_array();
        if (leg == nullptr || leg->size() != 3) continue;
        if (NumberOf((*leg)[0]) == static_cast<double>(fault.master) &&
            NumberOf((*leg)[1]) <= fault.until_ms && NumberOf((*leg)[2]) >= fault.at_ms) {
          met.insert(number);
        }
      }
    }
    return met;
  }

  static double StallOf(const json::object& end, const Fault& fault, double usual_ms) {
    double longest = 0;
    for (const json::value& value : ArrayAt(end, "gaps")) {
      const json::array* gap = value.if_array();
      if (gap == nullptr || gap->size() != 2) continue;
      const double from = NumberOf((*gap)[0]);
      const double length = NumberOf((*gap)[1]);
      if (from <= fault.until_ms + kAfterwardsMs && from + length >= fault.at_ms) {
        longest = std::max(longest, length);
      }
    }
    return std::max(0.0, longest - usual_ms);
  }

  void Count(const json::object& end, Counts& counts) {
    const std::string ended = TextAt(end, "ended");
    ++counts.requests;
    counts.ok += ended == "ok" ? 1 : 0;
    counts.lost += ended == "ok" ? 0 : 1;
    counts.hung += ended == "hung" ? 1 : 0;
    counts.resumed += ArrayAt(end, "legs").size() > 1 ? 1 : 0;
    counts.duplicated += IntAt(end, "duplicated");
    counts.missing += IntAt(end, "missing");
    counts.wrong += IntAt(end, "wrong");
    counts.wrong_usage += FlagAt(end, "wrong_usage") ? 1 : 0;
    counts.wrong_end += FlagAt(end, "wrong_end") || FlagAt(end, "wrong_logprobs") ||
                                !TextAt(end, "broken_rule").empty()
                            ? 1
                            : 0;
  }

  void AddEnd(const json::object& end) {
    const auto begun = begun_.find(IntAt(end, "n"));
    if (begun == begun_.end()) {
      ++tally_.stray_ends;
      return;
    }
    ClientTally& client = tally_.clients[begun->second.client];
    const double began_ms = begun->second.at_ms;
    begun_.erase(begun);
    Count(end, client.all);
    tally_.injected += FlagAt(end, "injected") ? 1 : 0;
    tally_.output_tokens += IntAt(end, "tokens");
    if (const std::string error = TextAt(end, "error");
        !error.empty() && (client.errors.size() < kErrorsMax || client.errors.contains(error))) {
      ++client.errors[error];
    }
    GapHistogram gaps;
    for (const json::value& value : ArrayAt(end, "histogram")) {
      const json::array* bucket = value.if_array();
      if (bucket == nullptr || bucket->size() != 2) continue;
      gaps.AddBucket(static_cast<int>(NumberOf((*bucket)[0])),
                     static_cast<int64_t>(NumberOf((*bucket)[1])));
    }
    const std::set<int64_t> met = MetBy(end, began_ms);
    const auto struck = std::lower_bound(struck_ms_.begin(), struck_ms_.end(), began_ms);
    const bool saw_one = struck != struck_ms_.end() && *struck <= NumberAt(end, "at_ms");
    if (met.empty() && (saw_one || struck_ms_.empty())) tally_.bystanders.Merge(gaps);
    std::set<std::string> kinds;
    const double usual_ms = gaps.Quantile(0.5);
    for (const int64_t number : met) {
      const Fault& fault = faults_.at(number);
      Counts& counts = client.by_fault[fault.kind];
      if (kinds.insert(fault.kind).second) Count(end, counts);
      // Where no two pieces came there is no pause to measure.
      if (gaps.buckets().empty()) continue;
      const auto stall = static_cast<float>(StallOf(end, fault, usual_ms));
      counts.stalls_ms.push_back(stall);
      client.all.stalls_ms.push_back(stall);
    }
  }

  RunTally tally_;
  std::unordered_map<int64_t, Begun> begun_;
  std::vector<json::object> ends_;
  std::unordered_map<int64_t, Fault> faults_;
  std::vector<int64_t> master_faults_;
  std::vector<int64_t> faults_of_all_;                         // such as those of the database
  std::vector<double> struck_ms_;                              // when each fault struck
  std::unordered_map<std::string, std::vector<int64_t>> met_;  // by a generation's name
};

}  // namespace

absl::StatusOr<RunTally> TallyJournal(std::istream& lines) {
  Tallier tallier;
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    boost::system::error_code error;
    const json::value value = json::parse(line, error);
    if (error || !value.is_object()) {
      return absl::DataLossError(absl::StrCat("line ", number, " of the journal is no record"));
    }
    tallier.Add(value.get_object());
  }
  return tallier.Finish();
}

}  // namespace fathom::cli
