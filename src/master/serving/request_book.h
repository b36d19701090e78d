#pragma once

// Where every request is and what has happened to it: those that have not ended, and a bounded
// number of those that ended last. Any thread.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/clock.h"
#include "master/serving/generation_request.h"

namespace fathom::master {

enum class RequestState : uint8_t { kPreparing, kQueued, kRunning, kOk, kError, kCancelled };

std::string_view NameOf(RequestState state);

struct RequestEvent {
  int64_t at_ns = 0;  // since the request came
  std::string what;
  std::string worker;
  std::string detail;
};

// What does not change of a request.
struct RequestName {
  std::string id;
  std::string call_id;  // as GenerationRequest has it
  std::string model;
  std::string tenant;
};

// One request, as a copy.
struct RequestView {
  std::string id;
  std::string model;
  std::string tenant;
  RequestState state = RequestState::kPreparing;
  std::string worker;
  uint32_t attempt = 0;
  int32_t migrations = 0;
  GenerationUsage usage;
  int64_t age_ns = 0;
  int64_t first_token_ns = 0;  // since it came; 0 before
  std::string error;
  std::vector<RequestEvent> events;  // of Find alone
  int32_t dropped_events = 0;
};

// The book's page of one request, which its generation writes.
class RequestPage {
 public:
  RequestPage(RequestName name, int64_t now_ns);
  RequestPage(const RequestPage&) = delete;
  RequestPage& operator=(const RequestPage&) = delete;

  void Note(int64_t now_ns, std::string_view what, std::string_view worker = {},
            std::string_view detail = {});
  void SetState(RequestState state);
  // A submission to `worker` begins.
  void SetAttempt(const std::string& worker, uint32_t attempt);
  void SetMigrations(int32_t migrations);
  // Once with the first token, then as often as tokens come.
  void SetUsage(const GenerationUsage& usage, int64_t now_ns);

  RequestView View(int64_t now_ns, bool with_events) const;

 private:
  friend class RequestBook;
  // A request that is refused for ever must not fill memory.
  static constexpr size_t kEventsMax = 64;

  void End(RequestState state, const std::string& error, int64_t now_ns);

  const RequestName name_;
  const int64_t started_ns_;
  mutable std::mutex mutex_;
  // State below is protected by mutex_.
  RequestView view_;
  int64_t ended_ns_ = 0;  // 0: it has not ended
};

class RequestBook {
 public:
  explicit RequestBook(const Clock* clock, size_t ended_max = 4096)
      : clock_(clock), ended_max_(ended_max) {}
  RequestBook(const RequestBook&) = delete;
  RequestBook& operator=(const RequestBook&) = delete;

  std::shared_ptr<RequestPage> Open(RequestName name);
  void Close(const std::shared_ptr<RequestPage>& page, RequestState state,
             const std::string& error);

  // Oldest first; at most `limit` of those that match. `tenant` empty: all.
  std::vector<RequestView> List(std::string_view tenant, bool ended, size_t limit) const;
  // With its events, by its id, as an answer has it ("chatcmpl-...") or by that of its call, the
  // latest one; nothing when it is not known or not of `tenant` (empty: any).
  std::optional<RequestView> Find(std::string_view tenant, const std::string& id) const;

 private:
  const Clock* const clock_;
  const size_t ended_max_;
  std::shared_ptr<RequestPage> Look(std::string_view tenant, const std::string& id) const;

  mutable std::mutex mutex_;
  // State below is protected by mutex_, which is taken before any page's.
  std::unordered_map<std::string, std::shared_ptr<RequestPage>> pages_;
  std::deque<std::shared_ptr<RequestPage>> ended_;
};

}  // namespace fathom::master
