#include "cli/chaos/transcript.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace fathom::cli {
namespace {

namespace json = boost::json;

const json::value* At(const json::object& object, std::string_view name) {
  const json::value* found = object.if_contains(name);
  return found == nullptr || found->is_null() ? nullptr : found;
}

std::string_view TextAt(const json::object& object, std::string_view name) {
  const json::value* found = At(object, name);
  const json::string* text = found == nullptr ? nullptr : found->if_string();
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}

int64_t NumberAt(const json::object& object, std::string_view name) {
  const json::value* found = At(object, name);
  return found != nullptr && found->is_int64() ? found->get_int64() : 0;
}

// The logprobs of a chunk or of a whole answer, so that chunks joined read like the whole.
std::string LogprobsOf(const json::object& choice) {
  const json::value* logprobs = At(choice, "logprobs");
  if (logprobs == nullptr || !logprobs->is_object()) return {};
  const json::value* content = At(logprobs->get_object(), "content");
  if (content == nullptr || !content->is_array()) return {};
  std::string text;
  for (const json::value& token : content->get_array()) text += json::serialize(token) + "\n";
  return text;
}

std::string_view FinishName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_ERROR:
      return "error";
    default:
      return {};
  }
}

}  // namespace

int GapHistogram::BucketOf(double ms) {
  return ms <= kFirstMs ? 0
                        : static_cast<int>(std::ceil(std::log(ms / kFirstMs) / std::log(kGrowth)));
}

double GapHistogram::UpperMs(int bucket) { return kFirstMs * std::pow(kGrowth, bucket); }

void GapHistogram::Merge(const GapHistogram& other) {
  for (const auto& [bucket, count] : other.buckets_) buckets_[bucket] += count;
}

double GapHistogram::Quantile(double q) const {
  int64_t all = 0;
  for (const auto& [bucket, count] : buckets_) all += count;
  const double wanted = q * static_cast<double>(all);
  int64_t seen = 0;
  for (const auto& [bucket, count] : buckets_) {
    seen += count;
    if (static_cast<double>(seen) >= wanted) return UpperMs(bucket);
  }
  return 0;
}

absl::Status Transcript::OnOpenAi(std::string_view body, int64_t now_ns) {
  std::array<unsigned char, 4096> memory;
  json::monotonic_resource resource(memory.data(), memory.size());
  boost::system::error_code wrong;
  const json::value answer = json::parse(body, wrong, &resource);
  const json::object* object = answer.if_object();
  if (wrong || object == nullptr) {
    return absl::DataLossError(absl::StrCat("no JSON: ", ToAbsl(body.substr(0, 100))));
  }
  if (const json::value* error = At(*object, "error"); error != nullptr && error->is_object()) {
    return absl::AbortedError(ToAbsl(TextAt(error->get_object(), "message")));
  }
  OnId(TextAt(*object, "id"));
  if (const json::value* choices = At(*object, "choices");
      choices != nullptr && choices->is_array()) {
    for (const json::value& value : choices->get_array()) {
      const json::object* choice = value.if_object();
      if (choice == nullptr) continue;
      const auto index = static_cast<int32_t>(NumberAt(*choice, "index"));
      std::string_view text = TextAt(*choice, "text");
      for (const std::string_view part : {"delta", "message"}) {
        const json::value* inner = At(*choice, part);
        if (inner != nullptr && inner->is_object()) text = TextAt(inner->get_object(), "content");
      }
      const std::string logprobs = LogprobsOf(*choice);
      OnText(index, text, now_ns);
      if (!logprobs.empty()) content_.choices[index].logprobs += logprobs;
      if (const std::string_view finish = TextAt(*choice, "finish_reason"); !finish.empty()) {
        OnFinish(index, finish);
      }
    }
  }
  if (const json::value* usage = At(*object, "usage"); usage != nullptr && usage->is_object()) {
    OnUsage(NumberAt(usage->get_object(), "prompt_tokens"),
            NumberAt(usage->get_object(), "completion_tokens"));
  }
  return absl::OkStatus();
}

void Transcript::OnDone() {
  if (done_) Break("the stream ended twice");
  done_ = true;
}

void Transcript::OnGrpc(const v1::GenerateResponse& response, int64_t now_ns) {
  OnId(response.id());
  OnText(response.choice(), response.text_delta(), now_ns);
  for (const v1::PositionLogprobs& position : response.logprobs()) {
    content_.choices[response.choice()].logprobs += position.SerializeAsString();
  }
  if (const std::string_view finish = FinishName(response.finish()); !finish.empty()) {
    OnFinish(response.choice(), finish);
  }
  if (response.has_usage()) {
    OnUsage(response.usage().prompt_tokens(), response.usage().completion_tokens());
  }
}

void Transcript::Flush() { injector_.Flush(Appender()); }

Injector::Sink Transcript::Appender() {
  return [this](int32_t choice, std::string_view text) { content_.choices[choice].text += text; };
}

void Transcript::OnText(int32_t choice, std::string_view text, int64_t now_ns) {
  if (text.empty()) return;
  if (!content_.choices[choice].finish.empty()) Break("text after the end of its choice");
  OnPiece(now_ns);
  injector_.Push(choice, text, Appender());
}

void Transcript::OnPiece(int64_t now_ns) {
  if (pieces_++ > 0) {
    const Gap gap{.from_ns = last_ns_, .length_ns = now_ns - last_ns_};
    gaps_.Add(static_cast<double>(gap.length_ns) * 1e-6);
    const auto longer = [](const Gap& a, const Gap& b) { return a.length_ns > b.length_ns; };
    if (long_gaps_.size() < kLongGaps || gap.length_ns > long_gaps_.back().length_ns) {
      long_gaps_.insert(std::upper_bound(long_gaps_.begin(), long_gaps_.end(), gap, longer), gap);
      if (long_gaps_.size() > kLongGaps) long_gaps_.pop_back();
    }
  }
  last_ns_ = now_ns;
}

void Transcript::OnFinish(int32_t choice, std::string_view reason) {
  Flush();
  std::string& finish = content_.choices[choice].finish;
  if (!finish.empty()) Break("a choice ended twice");
  finish = std::string(reason);
}

void Transcript::OnUsage(int64_t prompt_tokens, int64_t output_tokens) {
  if (content_.has_usage) Break("usage came twice");
  content_.has_usage = true;
  content_.prompt_tokens = prompt_tokens;
  content_.output_tokens = output_tokens;
}

void Transcript::OnId(std::string_view id) {
  // The dialect's prefix is none of the generation's name.
  if (const size_t dash = id.find('-'); dash != std::string_view::npos) id.remove_prefix(dash + 1);
  if (!id.empty() && (ids_.empty() || ids_.back() != id)) ids_.emplace_back(id);
}

void Transcript::Break(std::string rule) {
  if (broken_rule_.empty()) broken_rule_ = std::move(rule);
}

absl::Status Transcript::CheckComplete(bool needs_done) const {
  if (needs_done && !done_) {
    return absl::UnavailableError("the stream ended before the answer did");
  }
  if (content_.choices.empty()) return absl::DataLossError("an answer without choices");
  for (const auto& [index, choice] : content_.choices) {
    if (choice.finish.empty()) {
      return absl::UnavailableError(absl::StrCat("choice ", index, " did not end"));
    }
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
