#include "cli/chaos/report.h"

#include <boost/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/admin/table.h"
#include "cli/chaos/asker.h"
#include "cli/chaos/fault.h"
#include "cli/load/samples.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

constexpr int kErrorsShown = 5;

double StallAt(const Counts& counts, double q) { return Percentile(counts.stalls_ms, q); }

bool MastersWereDisturbed(const RunTally& tally) {
  for (const FaultKind kind : kFaultKinds) {
    if (HitsMaster(kind) && tally.faults.contains(NameOf(kind))) return true;
  }
  return false;
}

json::object ToJson(const Counts& counts) {
  return {{"requests", counts.requests},
          {"ok", counts.ok},
          {"lost", counts.lost},
          {"hung", counts.hung},
          {"resumed", counts.resumed},
          {"duplicated_tokens", counts.duplicated},
          {"missing_tokens", counts.missing},
          {"wrong_tokens", counts.wrong},
          {"wrong_usage", counts.wrong_usage},
          {"wrong_ends", counts.wrong_end},
          {"stalls", counts.stalls_ms.size()},
          {"stall_p50_ms", StallAt(counts, 0.5)},
          {"stall_p99_ms", StallAt(counts, 0.99)},
          {"stall_max_ms", StallAt(counts, 1)}};
}

void AddRow(const std::string& client, const std::string& fault, const std::string& faults,
            const Counts& counts, Table& table) {
  const bool stalls = !counts.stalls_ms.empty();
  const auto ms = [&](double q) {
    return stalls ? absl::StrFormat("%.0f", StallAt(counts, q)) : std::string("-");
  };
  table.Add({client, fault, faults, absl::StrCat(counts.requests), absl::StrCat(counts.lost),
             absl::StrCat(counts.hung), absl::StrCat(counts.duplicated),
             absl::StrCat(counts.missing), absl::StrCat(counts.wrong),
             absl::StrCat(counts.wrong_usage), absl::StrCat(counts.wrong_end), ms(0.5), ms(0.99)});
}

}  // namespace

std::vector<std::string> BrokenPromises(const ChaosResult& result) {
  std::vector<std::string> broken;
  const bool masters = MastersWereDisturbed(result.tally);
  for (const auto& [client, tally] : result.tally.clients) {
    const Counts& all = tally.all;
    if (all.lost > 0 && (client != NameOf(ClientKind::kPlain) || !masters)) {
      broken.push_back(absl::StrCat(client, ": ", all.lost, " of ", all.requests,
                                    " requests lost, ", all.hung, " of them hung"));
    }
    if (!all.right()) {
      broken.push_back(absl::StrCat(client, ": ", all.duplicated, " tokens duplicated, ",
                                    all.missing, " missing, ", all.wrong, " wrong; ",
                                    all.wrong_usage, " times wrong usage, ", all.wrong_end,
                                    " times a wrong end"));
    }
  }
  if (result.tally.stray_ends > 0) {
    broken.push_back(absl::StrCat(result.tally.stray_ends, " requests ended twice"));
  }
  if (result.checks.crashes > 0) {
    broken.push_back(absl::StrCat(result.checks.crashes, " processes ended by themselves"));
  }
  if (result.tally.faults.empty() && result.checks.migrations > 0) {
    broken.push_back(absl::StrCat("workers were taken for dead that were not: ",
                                  result.checks.migrations, " requests moved"));
  }
  if (result.checks.leaders.value_or(1) != 1) {
    broken.push_back(absl::StrCat(*result.checks.leaders, " masters lead after the last fault"));
  }
  if (!result.checks.conservation_broken.empty()) {
    broken.push_back(absl::StrCat("requests do not add up: ", result.checks.conservation_broken));
  }
  if (!result.checks.history_broken.empty()) {
    broken.push_back(absl::StrCat("an impossible history: ", result.checks.history_broken));
  }
  return broken;
}

std::string ChaosTable(const ChaosResult& result) {
  const RunTally& tally = result.tally;
  Table table({"CLIENT", "FAULT", "FAULTS", "REQUESTS", "LOST", "HUNG", "DUPLICATED", "MISSING",
               "WRONG", "USAGE", "ENDS", "STALL P50 MS", "P99"});
  int64_t faults = 0;
  for (const auto& [kind, count] : tally.faults) faults += count;
  for (const auto& [client, of_client] : tally.clients) {
    AddRow(client, "all", absl::StrCat(faults), of_client.all, table);
    for (const FaultKind kind : kFaultKinds) {
      const auto counts = of_client.by_fault.find(NameOf(kind));
      const auto count = tally.faults.find(NameOf(kind));
      if (counts == of_client.by_fault.end() || count == tally.faults.end()) continue;
      AddRow("", NameOf(kind), absl::StrCat(count->second), counts->second, table);
    }
  }
  std::string text = table.Text();
  text +=
      "\nA row of a fault counts the requests that met one of its kind; \"all\" counts every "
      "request.\n";
  absl::StrAppendFormat(
      &text,
      "%.0f output tokens/s. Requests that met no fault while others did: pauses between "
      "tokens p50 %.1f ms, p99 %.1f ms.\n",
      tally.last_ms > 0 ? static_cast<double>(tally.output_tokens) * 1e3 / tally.last_ms : 0,
      tally.bystanders.Quantile(0.5), tally.bystanders.Quantile(0.99));
  absl::StrAppend(
      &text, "Accepted = ended + in flight in ", result.checks.conservation_checks,
      " looks at the masters; ", result.checks.histories,
      " histories of requests that met a fault read.\nRequests that went on elsewhere: ",
      result.checks.migrations, " times their worker was lost, ", result.checks.untaken,
      " times it did not take them on in time.\n");
  for (const auto& [client, of_client] : tally.clients) {
    int shown = 0;
    for (const auto& [error, count] : of_client.errors) {
      if (shown++ == kErrorsShown) break;
      absl::StrAppend(&text, client, ": ", count, " x ", error, "\n");
    }
  }
  return text;
}

std::string ChaosJson(const ChaosResult& result) {
  const RunTally& tally = result.tally;
  json::object root;
  root["setup"] = json::parse(result.setup_json);
  root["seconds"] = tally.last_ms * 1e-3;
  json::object faults;
  for (const FaultKind kind : kFaultKinds) {
    const auto count = tally.faults.find(NameOf(kind));
    faults[CounterOf(kind)] = count == tally.faults.end() ? 0 : count->second;
  }
  json::object clients;
  for (const auto& [client, of_client] : tally.clients) {
    json::object object = ToJson(of_client.all);
    for (const auto& [counter, count] : faults) object[counter] = count;
    json::object by_fault;
    for (const auto& [kind, counts] : of_client.by_fault) by_fault[kind] = ToJson(counts);
    object["by_fault"] = std::move(by_fault);
    json::object errors;
    for (const auto& [error, count] : of_client.errors) errors[error] = count;
    object["errors"] = std::move(errors);
    clients[client] = std::move(object);
  }
  root["faults"] = std::move(faults);
  root["clients"] = std::move(clients);
  root["output_tokens"] = tally.output_tokens;
  root["injected"] = tally.injected;
  root["bystanders"] = {{"itl_p50_ms", tally.bystanders.Quantile(0.5)},
                        {"itl_p99_ms", tally.bystanders.Quantile(0.99)}};
  root["conservation"] = {{"checks", result.checks.conservation_checks},
                          {"broken", result.checks.conservation_broken}};
  root["history"] = {{"read", result.checks.histories}, {"broken", result.checks.history_broken}};
  root["migrations"] = result.checks.migrations;
  root["untaken"] = result.checks.untaken;
  root["crashes"] = result.checks.crashes;
  if (result.checks.leaders) root["leaders"] = *result.checks.leaders;
  json::array broken;
  for (const std::string& promise : BrokenPromises(result)) broken.emplace_back(promise);
  root["broken_promises"] = std::move(broken);
  return json::serialize(root) + "\n";
}

}  // namespace fathom::cli
