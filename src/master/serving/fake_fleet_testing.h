#pragma once

// A fleet that does what a test says: submissions are kept, the test answers them by hand or lets a
// script answer at once. Any thread.

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "master/fleet/fleet.h"
#include "master/models/catalog.h"

namespace fathom::master {

class FakeFleet final : public Fleet {
 public:
  struct Sent {
    WorkerKey worker;
    Submission submission;
    std::shared_ptr<SubmissionListener> listener;
  };
  struct Cancelled {
    std::string request_id;
    std::vector<int32_t> choices;
  };
  // Runs in Submit, on the caller's thread.
  using Script = std::function<void(const Submission&, SubmissionListener&)>;
  // Runs in Claim; may tell the listener what comes before the answer is known.
  using ClaimScript = std::function<ClaimOutcome(SubmissionListener&)>;

  std::shared_ptr<const FleetSnapshot> Snapshot() const override {
    const std::lock_guard lock(mutex_);
    return snapshot_;
  }
  void OnChange(std::function<void(FleetNews)> callback) override {
    const std::lock_guard lock(mutex_);
    on_change_ = std::move(callback);
  }
  absl::Status Submit(const WorkerKey& worker, Submission submission,
                      std::shared_ptr<SubmissionListener> listener) override {
    Script script;
    {
      const std::lock_guard lock(mutex_);
      if (!submit_error_.ok()) return std::exchange(submit_error_, absl::OkStatus());
      sent_.push_back({worker, submission, listener});
      script = script_;
      changed_.notify_all();
    }
    if (script) script(submission, *listener);
    return absl::OkStatus();
  }
  void Claim(const ClaimRequest& request, std::shared_ptr<SubmissionListener> listener,
             std::function<void(ClaimOutcome)> done) override {
    ClaimScript script;
    {
      const std::lock_guard lock(mutex_);
      claims_.push_back(request);
      script = claim_script_;
    }
    ClaimOutcome outcome;
    if (script) outcome = script(*listener);
    done(std::move(outcome));
  }
  absl::Status Drain(const std::string& worker_id) override {
    const std::lock_guard lock(mutex_);
    drained_.push_back(worker_id);
    return absl::OkStatus();
  }
  void Cancel(const WorkerKey& /*worker*/, const std::string& request_id, uint32_t /*attempt*/,
              std::vector<int32_t> choices) override {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back({request_id, std::move(choices)});
    changed_.notify_all();
  }

  void Condemn(const std::string& name, absl::Duration remaining) override {
    const std::lock_guard lock(mutex_);
    condemned_.emplace_back(name, remaining);
  }
  void ReportBacklog(const std::string& model, int64_t cost) override {
    const std::lock_guard lock(mutex_);
    backlog_[model] = cost;
  }

  // ---- for the test ----
  using Condemnations = std::vector<std::pair<std::string, absl::Duration>>;
  Condemnations condemned() const {
    const std::lock_guard lock(mutex_);
    return condemned_;
  }
  int64_t backlog(const std::string& model) const {
    const std::lock_guard lock(mutex_);
    const auto it = backlog_.find(model);
    return it == backlog_.end() ? 0 : it->second;
  }
  static WorkerInfo ReadyWorker(const std::string& id, const ServedModelInfo& model,
                                int64_t credit = 1 << 20) {
    WorkerInfo worker{
        .key = {id, "1"}, .state = WorkerState::kReady, .figures = {.credit = credit}};
    worker.models.push_back({.name = model.name,
                             .config_digest = model.config_digest,
                             .tokenizer_digest = model.tokenizer_digest});
    return worker;
  }
  void SetWorkers(std::vector<WorkerInfo> workers) {
    std::function<void(FleetNews)> callback;
    {
      const std::lock_guard lock(mutex_);
      auto next = std::make_shared<FleetSnapshot>();
      next->version = snapshot_->version + 1;
      next->workers = std::move(workers);
      snapshot_ = std::move(next);
      callback = on_change_;
    }
    if (callback) callback(FleetNews::kMembers);
  }
  void SetScript(Script script) {
    const std::lock_guard lock(mutex_);
    script_ = std::move(script);
  }
  void SetClaimScript(ClaimScript script) {
    const std::lock_guard lock(mutex_);
    claim_script_ = std::move(script);
  }
  std::vector<ClaimRequest> claims() const {
    const std::lock_guard lock(mutex_);
    return claims_;
  }
  void FailNextSubmit(absl::Status status) {
    const std::lock_guard lock(mutex_);
    submit_error_ = std::move(status);
  }
  // Waits for the `index`th submission (from 0).
  Sent WaitSent(size_t index) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return sent_.size() > index; });
    return sent_[index];
  }
  Cancelled WaitCancelled(size_t index) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return cancelled_.size() > index; });
    return cancelled_[index];
  }
  std::vector<std::string> drained() const {
    const std::lock_guard lock(mutex_);
    return drained_;
  }
  size_t num_sent() const {
    const std::lock_guard lock(mutex_);
    return sent_.size();
  }
  size_t num_cancelled() const {
    const std::lock_guard lock(mutex_);
    return cancelled_.size();
  }
  // Drops the listeners, which may own what owns this.
  void Forget() {
    std::vector<Sent> gone;
    const std::lock_guard lock(mutex_);
    gone.swap(sent_);
  }

  // An output of tokens from `first_index` on.
  static SubmissionOutput Output(int32_t choice, int32_t first_index, std::vector<TokenId> tokens,
                                 FinishReason finish = FinishReason::kNone) {
    SubmissionOutput output;
    output.attempt = 1;
    output.choice = choice;
    output.first_index = first_index;
    output.tokens = std::move(tokens);
    output.finish = finish;
    return output;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<const FleetSnapshot> snapshot_ = std::make_shared<FleetSnapshot>();
  std::function<void(FleetNews)> on_change_;
  Script script_;
  ClaimScript claim_script_;
  std::vector<ClaimRequest> claims_;
  std::map<std::string, int64_t> backlog_;
  absl::Status submit_error_;
  std::vector<Sent> sent_;
  std::vector<Cancelled> cancelled_;
  std::vector<std::string> drained_;
  Condemnations condemned_;
};

}  // namespace fathom::master
