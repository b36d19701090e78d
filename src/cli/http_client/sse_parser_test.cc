#include "cli/http_client/sse_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "common/random.h"

namespace fathom::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// The data of all events, when the stream comes in the given pieces.
std::vector<std::string> DataOf(const std::vector<std::string>& pieces) {
  SseParser parser;
  std::vector<std::string> data;
  for (const std::string& piece : pieces) {
    const absl::Status status = parser.Push(piece, [&](const SseEvent& event) {
      data.push_back(event.data);
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
  return data;
}

TEST(SseParserTest, ReadsEventsWithAnyLineEnd) {
  EXPECT_THAT(DataOf({"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\n\r\n"}),
              ElementsAre("a", "b", "c", "d"));
}

TEST(SseParserTest, JoinsDataLinesAndKeepsAllButOneLeadingSpace) {
  EXPECT_THAT(DataOf({"data: a\ndata:  b\ndata:c\ndata\n\n"}), ElementsAre("a\n b\nc\n"));
}

TEST(SseParserTest, IgnoresCommentsUnknownFieldsAndByteOrderMark) {
  EXPECT_THAT(DataOf({"\xEF\xBB\xBF: ping\n\ndata: a\nretry: 5\nother: x\n\n: ping\n\n"}),
              ElementsAre("a"));
}

TEST(SseParserTest, UnfinishedEventIsNoEvent) {
  EXPECT_THAT(DataOf({"data: a\n"}), IsEmpty());
  EXPECT_THAT(DataOf({"data: a"}), IsEmpty());
}

TEST(SseParserTest, TypeIsForOneEventAndIdStays) {
  SseParser parser;
  std::vector<SseEvent> events;
  const absl::Status status =
      parser.Push("event: error\nid: 7\ndata: x\n\ndata: y\n\n", [&](const SseEvent& event) {
        events.push_back(event);
        return absl::OkStatus();
      });
  ASSERT_TRUE(status.ok());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].type, "error");
  EXPECT_EQ(events[1].type, "message");
  EXPECT_EQ(events[1].id, "7");
}

TEST(SseParserTest, LineCarriageReturnAndNewlineInDifferentPiecesIsOneLineEnd) {
  EXPECT_THAT(DataOf({"data: a\r", "\ndata: b\r", "\n", "\r", "\n"}), ElementsAre("a\nb"));
}

TEST(SseParserTest, EventOverTheLimitIsRefused) {
  SseParser parser(/*event_bytes_max=*/16);
  const auto ignore = [](const SseEvent&) { return absl::OkStatus(); };
  EXPECT_TRUE(parser.Push("data: 0123456\n", ignore).ok());
  EXPECT_EQ(parser.Push("data: 0123456789\n", ignore).code(), absl::StatusCode::kResourceExhausted);
  SseParser line_parser(16);
  EXPECT_EQ(line_parser.Push(std::string(17, 'x'), ignore).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(SseParserTest, ErrorOfTheSinkEndsTheCall) {
  SseParser parser;
  int calls = 0;
  const absl::Status status = parser.Push("data: a\n\ndata: b\n\n", [&](const SseEvent&) {
    ++calls;
    return absl::CancelledError("enough");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 1);
}

// Streams of random bytes from a small alphabet, cut at random: the cuts must not change what is
// read.
TEST(SseParserFuzz, CutsNeverChangeTheEvents) {
  constexpr std::string_view kAlphabet[] = {"data", "data:",        "event: x", "id:",  ":",
                                            " ",    "\n",           "\r",       "\r\n", "\n\n",
                                            "{}",   "\xEF\xBB\xBF", "\xFF?",    "é",    "[DONE]"};
  SeededRandom random(20);
  for (int round = 0; round < 2000; ++round) {
    std::string stream;
    const uint64_t words = random.Next() % 60;
    for (uint64_t i = 0; i < words; ++i) stream += kAlphabet[random.Next() % std::size(kAlphabet)];
    stream += '\0';
    std::vector<std::string> pieces;
    for (size_t at = 0; at < stream.size();) {
      const size_t size = 1 + random.Next() % 5;
      pieces.push_back(stream.substr(at, size));
      at += size;
    }
    ASSERT_EQ(DataOf(pieces), DataOf({stream})) << "round " << round;
  }
}

}  // namespace
}  // namespace fathom::cli
