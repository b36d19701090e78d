#include "master/api/chat_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "common/digest.h"

namespace fathom::master {
namespace {

using testing::HasSubstr;
using testing::Not;

std::map<std::string, std::string> Headers(const HttpReply& reply) {
  return {reply.headers.begin(), reply.headers.end()};
}

TEST(ChatPageTest, KnowsItsFilesAndNothingElse) {
  ASSERT_NE(FindPageFile("/"), nullptr);
  EXPECT_EQ(FindPageFile("/")->name, "index.html");
  ASSERT_NE(FindPageFile("/page/app.js"), nullptr);
  EXPECT_EQ(FindPageFile("/page/app.js")->name, "app.js");
  for (const char* bad :
       {"", "/page", "/page/", "/index.html", "/page/index.html", "/app.js", "/page/../app.js",
        "/page//app.js", "/page/app.js/", "/PAGE/app.js", "/page/none.js", "//"}) {
    EXPECT_EQ(FindPageFile(bad), nullptr) << bad;
  }
}

TEST(ChatPageTest, DigestsAreThoseOfTheBytes) {
  for (const PageFile& file : PageFiles()) {
    EXPECT_FALSE(file.bytes.empty()) << file.name;
    EXPECT_EQ(file.sha256, Sha256Hex(file.bytes)) << file.name;
  }
}

TEST(ChatPageTest, EveryFileHasItsTypeAndStrictHeaders) {
  const std::map<std::string, std::string> types{{"html", "text/html; charset=utf-8"},
                                                 {"css", "text/css; charset=utf-8"},
                                                 {"js", "text/javascript; charset=utf-8"},
                                                 {"svg", "image/svg+xml"}};
  for (const PageFile& file : PageFiles()) {
    const HttpReply reply = PageReply(file, "");
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.body, file.bytes);
    EXPECT_EQ(reply.content_type,
              types.at(std::string(file.name.substr(file.name.rfind('.') + 1))));
    auto headers = Headers(reply);
    EXPECT_EQ(headers["Cache-Control"], "no-cache");
    EXPECT_EQ(headers["Referrer-Policy"], "no-referrer");
    const std::string& policy = headers["Content-Security-Policy"];
    EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
    EXPECT_THAT(policy, HasSubstr("frame-ancestors 'none'"));
    EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
    EXPECT_THAT(policy, Not(HasSubstr("http")));
  }
}

TEST(ChatPageTest, AnUnchangedFileIsNotSentAgain) {
  const PageFile& file = *FindPageFile("/");
  const std::string etag = Headers(PageReply(file, ""))["ETag"];
  EXPECT_EQ(etag, absl::StrCat("\"", std::string(file.sha256), "\""));
  for (const std::string& same :
       {etag, absl::StrCat("W/", etag), absl::StrCat("\"old\" , ", etag), std::string("*")}) {
    EXPECT_EQ(PageReply(file, same).status, 304) << same;
  }
  for (const std::string& other : {std::string("\"old\""), std::string(file.sha256), etag + "x",
                                   std::string("W/"), std::string(",")}) {
    EXPECT_EQ(PageReply(file, other).status, 200) << other;
  }
  EXPECT_EQ(Headers(PageReply(file, etag))["ETag"], etag);
}

TEST(ChatPageTest, NothingComesFromElsewhereOrStandsInline) {
  for (const PageFile& file : PageFiles()) {
    // The XML namespace of an image is a name, not an address.
    if (file.name.ends_with(".svg")) continue;
    const std::string text(file.bytes);
    for (const char* foreign :
         {"https://", "http://", "src=\"//", "@import", "innerHTML", "eval("}) {
      EXPECT_THAT(text, Not(HasSubstr(foreign))) << file.name;
    }
    if (file.name.ends_with(".html")) {
      for (const char* inlined : {"<style", "style=", "onclick", "<script>"}) {
        EXPECT_THAT(text, Not(HasSubstr(inlined))) << file.name;
      }
    }
  }
}

}  // namespace
}  // namespace fathom::master
