// Generations and their news lines with every thread there is: workers that write at once, an I/O
// context with several threads, and clients that leave and come back meanwhile. What a client has
// in the end is exact. Worth most under the thread sanitizer.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "master/serving/generation_testing.h"
#include "master/serving/news_line.h"

namespace fathom::master {
namespace {

constexpr int kWriters = 4;
constexpr int kIoThreads = 3;
constexpr int kRequests = 8;
constexpr int kChoices = 2;
constexpr int kReturns = 4;

// Its memory has no lock of its own: the line lets one in at a time.
class PlainListener final : public SubmissionListener {
 public:
  explicit PlainListener(std::map<int32_t, std::vector<int32_t>>* heard) : heard_(*heard) {}
  void OnAccepted(uint32_t) override {}
  void OnRejected(uint32_t, const absl::Status&, absl::Duration) override {}
  void OnOutput(SubmissionOutput output) override {
    heard_[output.choice].push_back(output.first_index);
  }
  void OnWorkerLost(uint32_t, const WorkerLoss&) override {}

 private:
  std::map<int32_t, std::vector<int32_t>>& heard_;
};

TEST(ThreadsTest, ALineThatChangesHandsLosesNothingOfManyWriters) {
  constexpr int32_t kEach = 2000;
  std::map<int32_t, std::vector<int32_t>> heard;
  NewsLine line(std::make_shared<PlainListener>(&heard));
  std::atomic<int> writing = kWriters;
  std::vector<std::thread> writers;
  for (int32_t writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&line, &writing, writer] {
      for (int32_t i = 0; i < kEach; ++i) {
        if (i % 7 == 0) line.OnAccepted(1);
        line.OnOutput(FakeFleet::Output(writer, i, {i}));
      }
      --writing;
    });
  }
  do {
    line.Pause();
    std::this_thread::yield();
    line.Connect(std::make_shared<PlainListener>(&heard));
  } while (writing > 0);
  for (std::thread& writer : writers) writer.join();
  std::vector<int32_t> all(kEach);
  for (int32_t i = 0; i < kEach; ++i) all[i] = i;
  for (int32_t writer = 0; writer < kWriters; ++writer) EXPECT_EQ(heard[writer], all) << writer;
}

// Opens for a request once its client has come back for the last time.
class Gates {
 public:
  void Open(const std::string& id) {
    const std::lock_guard lock(mutex_);
    open_.insert(id);
    changed_.notify_all();
  }
  void Wait(const std::string& id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return open_.contains(id); });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> open_;
};

// Workers, each a thread: a submission is answered by whichever is free. The first attempt of a
// request is lost half way.
class BusyFleet final : public Fleet {
 public:
  BusyFleet(std::vector<TokenId> tokens, Gates* gates)
      : tokens_(std::move(tokens)), gates_(*gates) {
    auto snapshot = std::make_shared<FleetSnapshot>();
    snapshot->version = 1;
    for (const std::string id : {"v", "w"}) {
      snapshot->workers.push_back(FakeFleet::ReadyWorker(id, *TinyModel()));
    }
    snapshot_ = std::move(snapshot);
    for (int i = 0; i < kWriters; ++i) writers_.emplace_back([this] { Write(); });
  }
  ~BusyFleet() override {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    for (std::thread& writer : writers_) writer.join();
  }

  std::shared_ptr<const FleetSnapshot> Snapshot() const override { return snapshot_; }
  void OnChange(std::function<void(FleetNews)>) override {}
  absl::Status Submit(const WorkerKey&, Submission submission,
                      std::shared_ptr<SubmissionListener> listener) override {
    const std::lock_guard lock(mutex_);
    work_.push_back({std::move(submission), std::move(listener)});
    changed_.notify_one();
    return absl::OkStatus();
  }
  void Cancel(const WorkerKey&, const std::string&, uint32_t, std::vector<int32_t>) override {}
  void Claim(const ClaimRequest&, std::shared_ptr<SubmissionListener>,
             std::function<void(ClaimOutcome)> done) override {
    ADD_FAILURE() << "what runs here is not asked for elsewhere";
    done({});
  }
  absl::Status Drain(const std::string&) override { return absl::OkStatus(); }

 private:
  struct Work {
    Submission submission;
    std::shared_ptr<SubmissionListener> listener;
  };

  void Write() {
    while (true) {
      Work work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return over_ || !work_.empty(); });
        if (work_.empty()) return;
        work = std::move(work_.front());
        work_.pop_front();
      }
      Answer(work);
    }
  }
  void Answer(const Work& work) {
    const Submission& submission = work.submission;
    const auto size = static_cast<int32_t>(tokens_.size());
    work.listener->OnAccepted(submission.attempt);
    std::vector<int32_t> next;
    for (const SubmissionChoice& choice : submission.choices) {
      next.push_back(static_cast<int32_t>(choice.tokens.size()));
    }
    for (int32_t i = 0; i < size; ++i) {
      if (submission.attempt == 1 && i == size / 2) {
        return work.listener->OnWorkerLost(submission.attempt, Broken());
      }
      for (size_t c = 0; c < next.size(); ++c) {
        if (next[c] > i) continue;
        const bool last = i == size - 1;
        if (last && c == 0) gates_.Wait(submission.request_id);
        SubmissionOutput output =
            FakeFleet::Output(submission.choices[c].index, i, {tokens_[i]},
                              last ? FinishReason::kLength : FinishReason::kNone);
        output.attempt = submission.attempt;
        work.listener->OnOutput(std::move(output));
      }
    }
  }

  const std::vector<TokenId> tokens_;
  Gates& gates_;
  std::shared_ptr<const FleetSnapshot> snapshot_;
  std::vector<std::thread> writers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // State below is protected by mutex_.
  std::deque<Work> work_;
  bool over_ = false;
};

// What one connection of a client has heard.
class ClientSink final : public GenerationSink {
 public:
  absl::Status OnDelta(GenerationDelta delta) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(ended_) << "a delta after the end";
    std::vector<TokenId>& tokens = tokens_[delta.choice];
    tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
    attempt_ = delta.attempt;
    changed_.notify_all();
    return absl::OkStatus();
  }
  void OnEnd(const absl::Status& status, const GenerationUsage&) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(ended_) << "two ends";
    ended_ = true;
    code_ = status.code();
    changed_.notify_all();
  }

  // Of all choices together.
  void WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ || tokens_[0].size() + tokens_[1].size() >= count; });
  }
  // Its code alone: abseil's library is not instrumented, so that the thread sanitizer does not see
  // how a status is given up that threads share.
  absl::StatusCode WaitForEnd() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_; });
    return code_;
  }
  std::vector<TokenId> tokens(int choice) {
    const std::lock_guard lock(mutex_);
    return tokens_[choice];
  }
  uint32_t attempt() {
    const std::lock_guard lock(mutex_);
    return attempt_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<std::vector<TokenId>, kChoices> tokens_;
  uint32_t attempt_ = 0;
  bool ended_ = false;
  absl::StatusCode code_ = absl::StatusCode::kUnknown;
};

class GenerationThreadsTest : public testing::Test {
 protected:
  GenerationThreadsTest()
      : serving_({.cpu_threads = 2,
                  .cluster_secret = "shared by the cluster's masters",
                  .patience = absl::Minutes(5)},
                 &fleet_, &catalog_, Clock::Real(), &random_) {
    for (int i = 0; i < kIoThreads; ++i) threads_.emplace_back([this] { io_.run(); });
  }
  ~GenerationThreadsTest() override {
    serving_.Stop();
    work_.reset();
    for (std::thread& thread : threads_) thread.join();
  }

  struct Connection {
    std::shared_ptr<ClientSink> sink = std::make_shared<ClientSink>();
    std::shared_ptr<Generation> generation;
  };
  Connection Connect(const GenerationRequest& request) {
    Connection connection;
    std::promise<std::shared_ptr<Generation>> started;
    const asio::any_io_executor strand = asio::make_strand(io_);
    asio::post(strand, [&, sink = connection.sink] {
      started.set_value(serving_.Generate(request, strand, sink));
    });
    connection.generation = started.get_future().get();
    return connection;
  }

  // Comes, leaves or breaks off, comes back; each time with a little more.
  void BeClient(GenerationRequest request) {
    Connection now = Connect(request);
    size_t had = 0;
    // The last token of each choice waits for the gate.
    const size_t most = kChoices * (tokens_.size() - 1);
    for (int i = 0; i < kReturns; ++i) {
      now.sink->WaitForTokens(std::min(had + 1, most));
      request.resumption.look = true;
      request.resumption.attempt = now.sink->attempt();
      request.resumption.have.clear();
      had = 0;
      for (int choice = 0; choice < kChoices; ++choice) {
        const std::vector<TokenId> tokens = now.sink->tokens(choice);
        ASSERT_LE(tokens.size(), tokens_.size());
        EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), tokens_.begin()));
        request.resumption.have.push_back(static_cast<int32_t>(tokens.size()));
        had += tokens.size();
      }
      if (i % 2 == 0) {
        asio::post(now.generation->strand(), [generation = now.generation] {
          generation->Leave(absl::CancelledError("gone"));
        });
      }
      const auto before = std::exchange(now, Connect(request)).sink;
      EXPECT_EQ(before->WaitForEnd(), absl::StatusCode::kCancelled);
    }
    gates_.Open(request.id);
    EXPECT_EQ(now.sink->WaitForEnd(), absl::StatusCode::kOk);
    for (int choice = 0; choice < kChoices; ++choice) {
      EXPECT_EQ(now.sink->tokens(choice), tokens_) << choice;
    }
  }

  const std::vector<TokenId> tokens_ =
      Encode("one two three four five six seven eight nine ten and on it goes to the very end");
  Gates gates_;
  BusyFleet fleet_{tokens_, &gates_};
  LiveCatalog catalog_{Catalog({TinyModel()})};
  SeededRandom random_{1};
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  Serving serving_;
  std::vector<std::thread> threads_;
};

TEST_F(GenerationThreadsTest, ClientsThatComeAndGoHaveEveryTokenOnce) {
  std::vector<std::thread> clients;
  for (int i = 0; i < kRequests; ++i) {
    GenerationRequest request;
    request.id = serving_.NewId();
    request.model = TinyModel();
    request.tenant = absl::StrCat("t", i % 3);
    request.prompt = TextPrompt{"Compute 1 + 2."};
    request.stop.max_tokens = static_cast<int32_t>(tokens_.size());
    request.n = kChoices;
    request.resumption = {.context = "proof", .hold = absl::Minutes(5)};
    clients.emplace_back([this, request] { BeClient(request); });
  }
  for (std::thread& client : clients) client.join();
}

}  // namespace
}  // namespace fathom::master
