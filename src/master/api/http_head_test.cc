#include "master/api/http_head.h"

#include <gtest/gtest.h>

namespace fathom::master {
namespace {

namespace http = boost::beast::http;

absl::Status Check(const std::string& host, const std::string& origin = "", bool loopback = true) {
  http::fields headers;
  headers.set(http::field::host, host);
  if (!origin.empty()) headers.set(http::field::origin, origin);
  return CheckHostAndOrigin(headers, loopback, /*http_10=*/false);
}

TEST(HttpHeadTest, OnLoopbackOnlyLoopbackNamesAreServed) {
  for (const char* host : {"localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000",
                           "127.1.2.3", "[::1]:8000", "[::1]", "app.localhost"}) {
    EXPECT_TRUE(Check(host).ok()) << host;
  }
  for (const char* host :
       {"evil.example", "evil.example:8000", "127.evil.example", "127.0.0.1.evil.example",
        "localhost.evil.example", "10.0.0.1", "[::2]", "localhost:x", "[::1"}) {
    EXPECT_FALSE(Check(host).ok()) << host;
  }
  EXPECT_TRUE(Check("api.example.com", "", /*loopback=*/false).ok());
}

TEST(HttpHeadTest, AHostHeaderIsNeededOnce) {
  http::fields headers;
  EXPECT_FALSE(CheckHostAndOrigin(headers, true, false).ok());
  EXPECT_TRUE(CheckHostAndOrigin(headers, true, /*http_10=*/true).ok());
  headers.insert(http::field::host, "localhost");
  headers.insert(http::field::host, "localhost");
  EXPECT_FALSE(CheckHostAndOrigin(headers, true, false).ok());
}

TEST(HttpHeadTest, OtherOriginsAreRefused) {
  EXPECT_TRUE(Check("localhost:8000", "http://localhost:8000").ok());
  EXPECT_FALSE(Check("localhost:8000", "http://localhost:3000").ok());
  EXPECT_FALSE(Check("localhost:8000", "https://evil.example").ok());
  EXPECT_FALSE(Check("localhost:8000", "null").ok());
}

TEST(HttpHeadTest, RequestIdsAreEchoedOnlyWhenFitToPrint) {
  EXPECT_EQ(UsableRequestId("abc-DEF_1.2:3"), "abc-DEF_1.2:3");
  EXPECT_EQ(UsableRequestId("a b"), "");
  EXPECT_EQ(UsableRequestId("a\r\nSet-Cookie: x"), "");
  EXPECT_EQ(UsableRequestId(std::string(129, 'a')), "");
}

TEST(HttpHeadTest, Paths) {
  EXPECT_EQ(PathOf("/v1/models?x=1#f"), "/v1/models");
  EXPECT_EQ(PathOf("http://host:1/v1/models?x"), "/v1/models");
  EXPECT_EQ(PathOf("http://host"), "/");
  EXPECT_EQ(PathOf("*"), "");
  EXPECT_EQ(DecodePath("org%2Fmodel%20x"), "org/model x");
  EXPECT_EQ(DecodePath("bad%2"), "");
  EXPECT_EQ(DecodePath("bad%zz"), "");
}

TEST(HttpHeadTest, TargetsOfPartialRequestLines) {
  EXPECT_EQ(TargetOf("GET /v2/models HTTP/1.1\r\nHost: x"), "/v2/models");
  EXPECT_EQ(TargetOf("GET /v2/mod"), "/v2/mod");
  EXPECT_EQ(TargetOf("GET /v2\r\nHost: a b"), "/v2");
  EXPECT_EQ(TargetOf("GET"), "");
  EXPECT_EQ(TargetOf("GET\r\n/v2 /v2"), "");
  EXPECT_EQ(TargetOf(""), "");
}

TEST(HttpHeadTest, ChunkedIsTheOnlyTransferCoding) {
  http::fields headers;
  EXPECT_TRUE(CheckTransferCoding(headers, false).ok());
  for (const char* good : {"chunked", "Chunked"}) {
    headers.set(http::field::transfer_encoding, good);
    EXPECT_TRUE(CheckTransferCoding(headers, false).ok()) << good;
    EXPECT_TRUE(absl::IsInvalidArgument(CheckTransferCoding(headers, true))) << good;
  }
  for (const char* bad : {"", "identity", "gzip, chunked", "chunked, identity", "xchunked"}) {
    headers.set(http::field::transfer_encoding, bad);
    EXPECT_TRUE(absl::IsUnimplemented(CheckTransferCoding(headers, false))) << bad;
  }
  headers.set(http::field::transfer_encoding, "chunked");
  headers.insert(http::field::transfer_encoding, "chunked");
  EXPECT_TRUE(absl::IsUnimplemented(CheckTransferCoding(headers, false)));
}

TEST(HttpHeadTest, HeadsAndChunks) {
  const std::string head =
      FormatHead({.status = 429, .headers = {{"Retry-After", "3"}}}, "id-1", BodyFraming::kLength,
                 5, /*keep_alive=*/true, /*http_10=*/false, absl::UnixEpoch());
  EXPECT_EQ(head,
            "HTTP/1.1 429 Too Many Requests\r\nServer: fathom\r\n"
            "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: application/json\r\n"
            "x-request-id: id-1\r\nX-Content-Type-Options: nosniff\r\nRetry-After: 3\r\n"
            "Content-Length: 5\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(FormatChunk("hello world, hello"), "12\r\nhello world, hello\r\n");
}

}  // namespace
}  // namespace fathom::master
