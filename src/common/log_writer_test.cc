#include "common/log_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr char kDropped[] = "dropped ";

// A pipe that is read when the test says so.
class LogWriterTest : public ::testing::Test {
 protected:
  LogWriterTest() {
    signal(SIGPIPE, SIG_IGN);
    EXPECT_EQ(pipe2(ends_.data(), O_CLOEXEC), 0);
  }
  ~LogWriterTest() override {
    writer_.reset();
    CloseReader();
    // Its thread may be about to write.
    while (writers_ > 0) std::this_thread::yield();
    close(ends_[1]);
  }

  LogWriter& Start(size_t max_bytes, size_t max_lines) {
    return writer_.emplace(
        LogWriterOptions{.fd = ends_[1],
                         .max_bytes = max_bytes,
                         .max_lines = max_lines,
                         .dropped_line = [](int64_t n) { return absl::StrCat(kDropped, n); },
                         .on_lost = [this, count = CountWriter()] { ++lost_; }});
  }
  // Counts one until what is returned goes.
  std::shared_ptr<void> CountWriter() {
    ++writers_;
    return {&writers_, [](std::atomic<int>* writers) { --*writers; }};
  }
  void CloseReader() {
    if (ends_[0] >= 0) close(std::exchange(ends_[0], -1));
  }
  // Until the pipe takes no more, by a descriptor of its own that does not wait.
  void FillPipe() {
    const int fd = open(absl::StrCat("/proc/self/fd/", ends_[1]).c_str(), O_WRONLY | O_NONBLOCK);
    ASSERT_GE(fd, 0);
    const std::string filler(4095, '.');
    while (write(fd, (filler + "\n").data(), 4096) > 0) {
    }
    close(fd);
  }
  // Reads on until there is a line of which `last` is true; all lines but the filler.
  template <typename Last>
  std::vector<std::string> ReadUntil(const Last& last) {
    std::vector<std::string> lines;
    pollfd there{.fd = ends_[0], .events = POLLIN, .revents = 0};
    std::array<char, 65536> piece{};
    while (poll(&there, 1, static_cast<int>(absl::ToInt64Milliseconds(kLong))) == 1) {
      const ssize_t got = read(ends_[0], piece.data(), piece.size());
      if (got <= 0) break;
      text_.append(piece.data(), static_cast<size_t>(got));
      size_t end = 0;
      while ((end = text_.find('\n')) != std::string::npos) {
        const std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        if (line[0] == '.') continue;
        lines.push_back(line);
        if (last(line)) return lines;
      }
    }
    ADD_FAILURE() << "the last line did not come";
    return lines;
  }

  std::array<int, 2> ends_{-1, -1};
  std::atomic<int64_t> lost_ = 0;
  std::atomic<int> writers_ = 0;  // whose threads have not ended
  std::optional<LogWriter> writer_;
  std::string text_;
};

TEST_F(LogWriterTest, WhatIsWrittenComesInOrderAndFlushWaitsForIt) {
  LogWriter& writer = Start(1 << 20, 1000);
  for (int i = 0; i < 100; ++i) writer.Write(absl::StrCat(i));
  EXPECT_TRUE(writer.Flush(kLong));
  const auto lines = ReadUntil([](const std::string& line) { return line == "99"; });
  ASSERT_EQ(lines.size(), 100);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(lines[i], absl::StrCat(i));
  EXPECT_EQ(lost_, 0);
}

TEST_F(LogWriterTest, AReaderThatStandsStillHoldsNobodyUpAndHearsWhatItMissed) {
  constexpr int kLines = 50'000;
  LogWriter& writer = Start(1 << 16, 1000);
  FillPipe();
  for (int i = 0; i < kLines; ++i) writer.Write(absl::StrCat("line ", i));
  EXPECT_GT(lost_, kLines - 1100);
  EXPECT_FALSE(writer.Flush(absl::Milliseconds(20)));

  const auto before = ReadUntil([](const std::string& line) { return line.starts_with(kDropped); });
  for (size_t i = 0; i + 1 < before.size(); ++i) EXPECT_EQ(before[i], absl::StrCat("line ", i));
  EXPECT_EQ(before.back(), absl::StrCat(kDropped, lost_.load()));
  EXPECT_EQ(static_cast<int64_t>(before.size()) - 1 + lost_, kLines);

  // Then all goes on as it was.
  writer.Write("after");
  EXPECT_EQ(ReadUntil([](const std::string&) { return true; }).front(), "after");
  EXPECT_EQ(static_cast<int64_t>(before.size()) - 1 + lost_, kLines);
}

TEST_F(LogWriterTest, BothBoundsHold) {
  LogWriter& few = Start(1 << 20, 4);
  FillPipe();
  few.Write("under way");
  for (int i = 0; i < 10; ++i) few.Write("x");
  // The first may have left the queue for the pipe.
  EXPECT_GE(lost_, 6);
  EXPECT_LE(lost_, 7);

  lost_ = 0;
  LogWriter& small = Start(100, 1000);
  for (int i = 0; i < 10; ++i) small.Write(std::string(24, 'x'));
  EXPECT_EQ(lost_, 6) << "what is being written counts as well";
}

TEST_F(LogWriterTest, ALineLargerThanAllRoomIsDroppedAndSaid) {
  LogWriter& writer = Start(100, 1);
  writer.Write("before");
  EXPECT_TRUE(writer.Flush(kLong));
  writer.Write(std::string(200, 'x'));
  EXPECT_TRUE(writer.Flush(kLong));
  EXPECT_EQ(ReadUntil([](const std::string& line) { return line != "before"; }).back(),
            "dropped 1");
}

TEST_F(LogWriterTest, AReaderThatIsGoneIsCountedAndHoldsNothingUp) {
  LogWriter& writer = Start(1 << 20, 1000);
  CloseReader();
  for (int i = 0; i < 10; ++i) writer.Write("x");
  EXPECT_TRUE(writer.Flush(kLong));
  EXPECT_EQ(lost_, 10);
}

TEST_F(LogWriterTest, ADescriptorThatOthersMadeNonBlockingLosesNothing) {
  LogWriter& writer = Start(1 << 20, 1000);
  FillPipe();
  fcntl(ends_[1], F_SETFL, fcntl(ends_[1], F_GETFL) | O_NONBLOCK);
  writer.Write("late");
  EXPECT_FALSE(writer.Flush(absl::Milliseconds(20)));
  EXPECT_EQ(ReadUntil([](const std::string&) { return true; }).front(), "late");
  EXPECT_EQ(lost_, 0);
}

// Each thread's lines are in its order, and each line there or counted.
TEST_F(LogWriterTest, ManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kEach = 5000;
  LogWriter& writer = Start(1 << 14, 1000);
  std::thread reader;
  std::vector<std::string> lines;
  reader = std::thread(
      [&] { lines = ReadUntil([](const std::string& line) { return line == "end"; }); });
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&writer, t] {
      for (int i = 0; i < kEach; ++i) writer.Write(absl::StrCat(t, ":", i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(writer.Flush(kLong));
  writer.Write("end");
  reader.join();
  std::array<int, kThreads> next{};
  int64_t said = 0;
  int64_t there = 0;
  for (const std::string& line : lines) {
    int64_t number = 0;
    if (line == "end") continue;
    if (line.starts_with(kDropped)) {
      ASSERT_TRUE(absl::SimpleAtoi(line.substr(sizeof(kDropped) - 1), &number));
      said += number;
      continue;
    }
    ++there;
    const int thread = line[0] - '0';
    ASSERT_TRUE(absl::SimpleAtoi(line.substr(2), &number));
    EXPECT_GE(number, next[thread]);
    next[thread] = static_cast<int>(number) + 1;
  }
  EXPECT_EQ(said, lost_);
  EXPECT_EQ(there + said, kThreads * kEach);
}

}  // namespace
}  // namespace fathom
