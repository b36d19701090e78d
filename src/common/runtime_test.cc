// The small runtime parts: queue, files, digest, random, shutdown, health server.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <thread>

#include "absl/strings/escaping.h"
#include "common/bounded_queue.h"
#include "common/digest.h"
#include "common/files.h"
#include "common/health_server.h"
#include "common/metrics.h"
#include "common/periodic.h"
#include "common/random.h"
#include "common/shutdown.h"
#include "common/stack_thread.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

TEST(BoundedQueueTest, RefusesWhenFullAndKeepsTheItem) {
  BoundedQueue<std::string> queue(1);
  EXPECT_TRUE(queue.TryPush("a"));
  std::string second = "b";
  EXPECT_FALSE(queue.TryPush(std::move(second)));
  EXPECT_EQ(second, "b");  // NOLINT(bugprone-use-after-move): that is the promise
  EXPECT_EQ(queue.TryPop(), "a");
  EXPECT_EQ(queue.TryPop(), std::nullopt);
}

TEST(BoundedQueueTest, CloseWakesPopAndDrainsTheRest) {
  BoundedQueue<int> queue(4);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_THAT(queue.Drain(), ElementsAre(2));
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueueTest, ManyProducersLoseNothing) {
  BoundedQueue<int> queue(8);
  std::vector<std::thread> producers;
  for (int t = 0; t < 4; ++t) {
    producers.emplace_back([&queue] {
      for (int i = 1; i <= 1000; ++i) {
        while (!queue.TryPush(int{i})) std::this_thread::yield();
      }
    });
  }
  int64_t sum = 0;
  for (int i = 0; i < 4000; ++i) sum += queue.Pop().value();
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(sum, 4 * 500500);
}

TEST(FilesTest, WritesAtomicallyAndReadsBackWithinTheLimit) {
  const std::string path = testing::TempDir() + "fathom_files_test." + std::to_string(getpid());
  ASSERT_TRUE(WriteFileAtomically(path, "hello", 0600).ok());
  EXPECT_EQ(ReadFile(path, 5).value(), "hello");
  EXPECT_EQ(ReadFile(path, 4).status().code(), absl::StatusCode::kResourceExhausted);
  unlink(path.c_str());
  EXPECT_EQ(ReadFile(path, 5).status().code(), absl::StatusCode::kNotFound);
}

// RFC 4231, test case 2.
TEST(DigestTest, HmacOfTheStandardsExample) {
  EXPECT_EQ(absl::BytesToHexString(HmacSha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(DigestTest, Sha256OfTheStandardsExample) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_TRUE(EqualInConstantTime("ab", "ab"));
  EXPECT_FALSE(EqualInConstantTime("ab", "ac"));
  EXPECT_FALSE(EqualInConstantTime("ab", "abc"));
}

TEST(RandomTest, HexHasTheLengthAskedForAndSeedsRepeat) {
  SeededRandom a(1), b(1);
  EXPECT_EQ(RandomHex(a, 13), RandomHex(b, 13));
  EXPECT_EQ(RandomHex(*Random::Real(), 16).size(), 32u);
  EXPECT_NE(RandomHex(*Random::Real(), 16), RandomHex(*Random::Real(), 16));
}

TEST(ShutdownSignalTest, SignalAndRequestEndTheWait) {
  ShutdownSignal shutdown;
  EXPECT_FALSE(shutdown.WaitFor(absl::ZeroDuration()));
  kill(getpid(), SIGTERM);
  shutdown.Wait();
  shutdown.Request();
  EXPECT_EQ(shutdown.count(), 2);
}

std::string Get(uint16_t port, const std::string& request) {
  boost::asio::io_context io;
  boost::asio::ip::tcp::socket socket(io);
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), port});
  boost::asio::write(socket, boost::asio::buffer(request));
  std::string answer;
  boost::system::error_code error;
  boost::asio::read(socket, boost::asio::dynamic_buffer(answer), error);
  return answer;
}

TEST(PeriodicTest, CallsUntilItGoesAndNeverAfter) {
  std::atomic<int> calls = 0;
  {
    const Periodic periodic(absl::Milliseconds(1), [&calls] { ++calls; });
    while (calls < 3) std::this_thread::yield();
  }
  const int seen = calls;
  absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(calls, seen);
  // One that waits for its first call goes at once.
  const Periodic waiting(absl::Hours(1), [] {});
}

TEST(StackThreadTest, HasTheStackItWasMadeWith) {
  constexpr size_t kStackBytes = size_t{256} << 20;
  size_t bytes = 0;
  StackThread thread(kStackBytes, [&bytes] {
    pthread_attr_t attributes;
    void* start = nullptr;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    pthread_attr_getstack(&attributes, &start, &bytes);
    pthread_attr_destroy(&attributes);
  });
  StackThread moved = std::move(thread);
  moved.Join();
  EXPECT_GE(bytes, kStackBytes - (size_t{1} << 20));
}

TEST(HealthServerTest, AnswersProbesAndNothingElse) {
  AddCounter("fathom_test_total", "A test.").Increment();
  bool ready = false;
  auto server = HealthServer::Start(
      "127.0.0.1", 0,
      {.ready = [&] { return ready ? absl::OkStatus() : absl::UnavailableError("loading"); },
       .before_metrics = nullptr});
  ASSERT_TRUE(server.ok()) << server.status();
  const uint16_t port = (*server)->port();
  const auto get = [&](const std::string& path) {
    return Get(port, "GET " + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  };
  EXPECT_THAT(get("/health"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(get("/ready"), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("loading")));
  ready = true;
  EXPECT_THAT(get("/ready"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(get("/metrics"), HasSubstr("fathom_test_total 1"));
  EXPECT_THAT(get("/v1/models"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Get(port, "POST /health HTTP/1.0\r\n\r\n"), HasSubstr(" 405 "));
  EXPECT_EQ(Get(port, "garbage\r\n\r\n"), "");
  EXPECT_FALSE(HealthServer::Start("127.0.0.1", port, {}).ok());
  EXPECT_FALSE(HealthServer::Start("not an address", 0, {}).ok());
}

}  // namespace
}  // namespace fathom
