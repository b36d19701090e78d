#include "master/api/grpc_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace fathom::master {
namespace {

constexpr size_t kStackBytes = size_t{1} << 20;

class GrpcLoopTest : public testing::Test {
 protected:
  GrpcLoopTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials());
    loop_ = std::make_unique<GrpcLoop>(builder.AddCompletionQueue(), io_);
    server_ = builder.BuildAndStart();
  }
  ~GrpcLoopTest() override {
    Stop();
    work_.reset();
    timers_.join();
  }
  void Stop() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    loop_->Stop();
    server_ = nullptr;
  }

  boost::asio::io_context io_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      io_.get_executor()};
  std::thread timers_{[this] { io_.run(); }};
  std::unique_ptr<GrpcLoop> loop_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(GrpcLoopTest, RunsWhatIsPostedOnOneThreadAndEachThreadsInOrder) {
  constexpr int kThreads = 4;
  constexpr int kPosts = 2000;
  loop_->Start(kStackBytes);
  std::vector<int> last(kThreads, -1);  // of the loop's thread, like the rest
  int strangers = 0;
  int disorder = 0;
  std::thread::id own;
  std::atomic<int> ran = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t, executor = loop_->executor()] {
      for (int i = 0; i < kPosts; ++i) {
        boost::asio::post(executor, [&, t, i] {
          if (own == std::thread::id()) own = std::this_thread::get_id();
          strangers += own != std::this_thread::get_id();
          disorder += last[t] != i - 1;
          last[t] = i;
          if (++ran == kThreads * kPosts) ran.notify_all();
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int seen = ran; seen < kThreads * kPosts; seen = ran) ran.wait(seen);
  EXPECT_EQ(strangers, 0);
  EXPECT_EQ(disorder, 0);
}

TEST_F(GrpcLoopTest, WhatIsPostedWakesIt) {
  loop_->Start(kStackBytes);
  for (int i = 0; i < 200; ++i) {
    std::promise<void> ran;
    boost::asio::post(loop_->executor(), [&] { ran.set_value(); });
    ASSERT_EQ(ran.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
    // Mostly it waits again by the next one.
    if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST_F(GrpcLoopTest, TimersOfItsExecutorCallOnItsThread) {
  loop_->Start(kStackBytes);
  std::promise<std::thread::id> posted;
  boost::asio::post(loop_->executor(), [&] { posted.set_value(std::this_thread::get_id()); });
  boost::asio::steady_timer timer(loop_->executor(), std::chrono::milliseconds(5));
  std::promise<std::thread::id> timed;
  timer.async_wait([&](const auto&) { timed.set_value(std::this_thread::get_id()); });
  EXPECT_EQ(posted.get_future().get(), timed.get_future().get());
}

TEST_F(GrpcLoopTest, WhatIsPostedWhenItHasEndedIsDropped) {
  loop_->Start(kStackBytes);
  const boost::asio::any_io_executor executor = loop_->executor();
  Stop();
  loop_ = nullptr;
  auto held = std::make_shared<int>();
  boost::asio::post(executor, [held] { ADD_FAILURE(); });
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(GrpcLoopTest, OneThatNeverStartedDropsWhatItHas) {
  auto held = std::make_shared<int>();
  boost::asio::post(loop_->executor(), [held] { ADD_FAILURE(); });
  EXPECT_EQ(held.use_count(), 2);
  Stop();
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(GrpcLoopTest, EndsWhileOthersPost) {
  loop_->Start(kStackBytes);
  auto held = std::make_shared<int>();
  std::atomic<bool> end = false;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, executor = loop_->executor()] {
      while (!end) {
        boost::asio::post(executor, [held] {});
        std::this_thread::yield();
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Stop();
  end = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace fathom::master
