#include "cli/http_client/sse_parser.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace fathom::cli {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

absl::Status SseParser::Push(std::string_view bytes, const Sink& sink) {
  while (!bytes.empty()) {
    if (after_cr_) {
      after_cr_ = false;
      if (bytes.front() == '\n') {
        bytes.remove_prefix(1);
        continue;
      }
    }
    const size_t end = bytes.find_first_of("\r\n");
    line_.append(bytes.substr(0, end));
    if (line_.size() + event_.data.size() > event_bytes_max_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the server sent an event of more than ", event_bytes_max_, " bytes"));
    }
    if (end == std::string_view::npos) break;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    RETURN_IF_ERROR(EndLine(sink));
  }
  return absl::OkStatus();
}

absl::Status SseParser::EndLine(const Sink& sink) {
  std::string line;
  line.swap(line_);
  std::string_view text = line;
  if (first_line_ && text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  first_line_ = false;

  if (text.empty()) {
    SseEvent event = event_;
    const bool complete = has_data_;
    event_.type.clear();
    event_.data.clear();
    has_data_ = false;
    if (!complete) return absl::OkStatus();
    if (event.type.empty()) event.type = "message";
    return sink(event);
  }
  const size_t colon = text.find(':');
  if (colon == 0) return absl::OkStatus();  // a comment, usually a keep-alive
  if (colon == std::string_view::npos) {
    Field(text, "");
  } else {
    std::string_view value = text.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    Field(text.substr(0, colon), value);
  }
  return absl::OkStatus();
}

void SseParser::Field(std::string_view name, std::string_view value) {
  if (name == "data") {
    if (has_data_) event_.data += '\n';
    event_.data += value;
    has_data_ = true;
  } else if (name == "event") {
    event_.type = value;
  } else if (name == "id" && value.find('\0') == std::string_view::npos) {
    event_.id = value;
  }
}

}  // namespace fathom::cli
