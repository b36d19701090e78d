#include "cli/http_client/url.h"

#include <gtest/gtest.h>

#include "common/strings.h"

namespace fathom::cli {
namespace {

TEST(ParseUrlTest, TakesWhatPeopleType) {
  const struct {
    const char* text;
    const char* host;
    int port;
    const char* base;
  } cases[] = {
      {"http://127.0.0.1:8000", "127.0.0.1", 8000, ""},
      {"http://localhost:8000/v1", "localhost", 8000, ""},
      {"http://localhost:8000/v1/", "localhost", 8000, ""},
      {"example.org", "example.org", 80, ""},
      {"example.org:1/x/v1", "example.org", 1, "/x"},
      {"http://[::1]:65535/a/", "::1", 65535, "/a"},
  };
  for (const auto& c : cases) {
    const auto url = ParseUrl(c.text);
    ASSERT_TRUE(url.ok()) << url.status();
    EXPECT_EQ(url->host, c.host);
    EXPECT_EQ(url->port, c.port);
    EXPECT_EQ(url->base, c.base);
  }
}

TEST(ParseUrlTest, RefusesWhatItCannotReach) {
  for (const char* text : {"", "http://", "https://x", "x:0", "x:65536", "x:8a", "x:", "[::1",
                           "[::1]8", "a b", "x/y?z", "http://user@x"}) {
    EXPECT_FALSE(ParseUrl(text).ok()) << text;
  }
}

TEST(ParseUrlTest, AuthorityPutsBracketsAroundIpv6) {
  EXPECT_EQ(ParseUrl("[::1]:80")->authority(), "[::1]:80");
  EXPECT_EQ(ParseUrl("a:81")->authority(), "a:81");
}

}  // namespace
}  // namespace fathom::cli
