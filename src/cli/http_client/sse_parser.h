#pragma once

// Server-sent events out of a byte stream (WHATWG HTML, "Parsing an event stream"): any of the
// three line ends, comments, events of several data lines, pieces cut anywhere. Not thread-safe.
// What is left unfinished at the end of the stream is no event, as the standard says.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace fathom::cli {

struct SseEvent {
  std::string type;  // "message" unless the server named another
  std::string data;  // data lines, joined by newlines
  std::string id;    // the last id seen; stays from event to event
};

class SseParser {
 public:
  static constexpr size_t kEventBytesMax = 16 << 20;

  using Sink = std::function<absl::Status(const SseEvent&)>;

  explicit SseParser(size_t event_bytes_max = kEventBytesMax) : event_bytes_max_(event_bytes_max) {}

  // Calls `sink` for every event that ends in `bytes`; an error of `sink` ends the call and is
  // returned. RESOURCE_EXHAUSTED for an event or a line over the limit.
  absl::Status Push(std::string_view bytes, const Sink& sink);

 private:
  absl::Status EndLine(const Sink& sink);
  void Field(std::string_view name, std::string_view value);

  const size_t event_bytes_max_;
  std::string line_;
  SseEvent event_;
  bool has_data_ = false;
  bool first_line_ = true;  // a byte order mark may stand before it
  bool after_cr_ = false;   // a newline now belongs to the line end before
};

}  // namespace fathom::cli
