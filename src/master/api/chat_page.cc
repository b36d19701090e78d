#include "master/api/chat_page.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace fathom::master {
namespace {

constexpr std::string_view kIndex = "index.html";
constexpr std::string_view kFolder = "/page/";

// Trusted types: the browser itself refuses markup made of strings.
constexpr char kContentSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'";

std::string ContentType(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  return "image/svg+xml";
}

// If-None-Match compares weakly (RFC 9110, 13.1.2); a proxy that compresses marks tags as weak.
bool Matches(std::string_view if_none_match, std::string_view etag) {
  for (absl::string_view tag : absl::StrSplit(ToAbsl(if_none_match), ',')) {
    tag = absl::StripAsciiWhitespace(tag);
    if (tag == "*") return true;
    if (tag.substr(0, 2) == "W/") tag.remove_prefix(2);
    if (ToStd(tag) == etag) return true;
  }
  return false;
}

}  // namespace

const PageFile* FindPageFile(std::string_view path) {
  std::string_view name = kIndex;
  if (path != "/") {
    if (!path.starts_with(kFolder)) return nullptr;
    name = path.substr(kFolder.size());
    if (name == kIndex) return nullptr;  // one address a page
  }
  const std::vector<PageFile>& files = PageFiles();
  const auto found = std::find_if(files.begin(), files.end(),
                                  [name](const PageFile& file) { return file.name == name; });
  return found == files.end() ? nullptr : &*found;
}

HttpReply PageReply(const PageFile& file, std::string_view if_none_match) {
  const std::string etag = absl::StrCat("\"", ToAbsl(file.sha256), "\"");
  return {.status = Matches(if_none_match, etag) ? 304 : 200,
          .content_type = ContentType(file.name),
          .headers = {{"ETag", etag},
                      {"Cache-Control", "no-cache"},
                      {"Content-Security-Policy", kContentSecurityPolicy},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cross-Origin-Opener-Policy", "same-origin"},
                      {"Cross-Origin-Resource-Policy", "same-origin"}},
          .body = std::string(file.bytes)};
}

}  // namespace fathom::master
