#pragma once

// One answer as a client saw it: what it said, when it stood still, which generations it came from.
// Knows the rules of a history: nothing of a choice comes after its end, and ends come once. One
// thread.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "cli/chaos/content.h"
#include "cli/chaos/injection.h"
#include "fathom/v1/inference.pb.h"

namespace fathom::cli {

struct Gap {
  int64_t from_ns = 0;
  int64_t length_ns = 0;
};

// How long the pauses between pieces were: so many in each of a series of buckets, each a tenth
// longer than the one before.
class GapHistogram {
 public:
  static constexpr double kFirstMs = 0.1;
  static constexpr double kGrowth = 1.1;

  static int BucketOf(double ms);
  static double UpperMs(int bucket);
  void Add(double ms, int64_t count = 1) { buckets_[BucketOf(ms)] += count; }
  void AddBucket(int bucket, int64_t count) { buckets_[bucket] += count; }
  void Merge(const GapHistogram& other);
  // Upper end of the bucket in which the part `q` lies; 0 of nothing.
  double Quantile(double q) const;
  const std::map<int, int64_t>& buckets() const { return buckets_; }

 private:
  std::map<int, int64_t> buckets_;
};

class Transcript {
 public:
  static constexpr size_t kLongGaps = 8;

  explicit Transcript(Injector injector) : injector_(std::move(injector)) {}

  // The data of one server-sent event other than [DONE], or a whole answer. An error that the
  // server sent is returned; so is what is no answer at all (DATA_LOSS).
  absl::Status OnOpenAi(std::string_view body, int64_t now_ns);
  void OnDone();
  void OnGrpc(const v1::GenerateResponse& response, int64_t now_ns);
  // The connection is gone: what the injector holds must not wait for another one.
  void Flush();

  // OK when the answer is whole.
  absl::Status CheckComplete(bool needs_done) const;

  const Content& content() const { return content_; }
  const std::vector<std::string>& ids() const { return ids_; }  // of its generations
  // Empty, or the rule of a history that was broken first.
  const std::string& broken_rule() const { return broken_rule_; }
  int64_t pieces() const { return pieces_; }
  bool injected() const { return injector_.touched(); }
  const std::vector<Gap>& long_gaps() const { return long_gaps_; }  // the longest ones
  const GapHistogram& gaps() const { return gaps_; }

 private:
  void OnText(int32_t choice, std::string_view text, int64_t now_ns);
  void OnFinish(int32_t choice, std::string_view reason);
  void OnUsage(int64_t prompt_tokens, int64_t output_tokens);
  void OnId(std::string_view id);
  void OnPiece(int64_t now_ns);
  void Break(std::string rule);
  Injector::Sink Appender();

  Injector injector_;
  Content content_;
  std::vector<std::string> ids_;
  std::string broken_rule_;
  bool done_ = false;
  int64_t pieces_ = 0;
  int64_t last_ns_ = 0;
  std::vector<Gap> long_gaps_;
  GapHistogram gaps_;
};

}  // namespace fathom::cli
