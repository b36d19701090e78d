#include "master/serving/request_book.h"

#include <algorithm>
#include <utility>

namespace fathom::master {
namespace {

constexpr size_t kDetailBytesMax = 300;

}  // namespace

std::string_view NameOf(RequestState state) {
  switch (state) {
    case RequestState::kPreparing:
      return "preparing";
    case RequestState::kQueued:
      return "queued";
    case RequestState::kRunning:
      return "running";
    case RequestState::kOk:
      return "ok";
    case RequestState::kError:
      return "error";
    case RequestState::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

RequestPage::RequestPage(std::string id, std::string model, std::string tenant, int64_t now_ns)
    : id_(std::move(id)), tenant_(std::move(tenant)), started_ns_(now_ns) {
  view_.id = id_;
  view_.model = std::move(model);
  view_.tenant = tenant_;
}

void RequestPage::Note(int64_t now_ns, std::string_view what, std::string_view worker,
                       std::string_view detail) {
  const std::lock_guard lock(mutex_);
  RequestEvent event{now_ns - started_ns_, std::string(what), std::string(worker),
                     std::string(detail.substr(0, kDetailBytesMax))};
  if (view_.events.size() < kEventsMax) return view_.events.push_back(std::move(event));
  // How it began and how it goes now tell the most.
  view_.events.erase(view_.events.begin() + kEventsMax / 2);
  view_.events.push_back(std::move(event));
  ++view_.dropped_events;
}

void RequestPage::SetState(RequestState state) {
  const std::lock_guard lock(mutex_);
  view_.state = state;
}

void RequestPage::SetAttempt(const std::string& worker, uint32_t attempt) {
  const std::lock_guard lock(mutex_);
  view_.state = RequestState::kRunning;
  view_.worker = worker;
  view_.attempt = attempt;
}

void RequestPage::SetMigrations(int32_t migrations) {
  const std::lock_guard lock(mutex_);
  view_.migrations = migrations;
}

void RequestPage::SetUsage(const GenerationUsage& usage, int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  view_.usage = usage;
  if (view_.first_token_ns == 0 && usage.completion_tokens > 0) {
    view_.first_token_ns = std::max<int64_t>(1, now_ns - started_ns_);
  }
}

void RequestPage::End(RequestState state, const std::string& error, int64_t now_ns) {
  Note(now_ns, "ended", {}, error.empty() ? NameOf(state) : std::string_view(error));
  const std::lock_guard lock(mutex_);
  view_.state = state;
  view_.error = error.substr(0, kDetailBytesMax);
  ended_ns_ = now_ns;
}

RequestView RequestPage::View(int64_t now_ns, bool with_events) const {
  const std::lock_guard lock(mutex_);
  RequestView view;
  if (with_events) {
    view = view_;
  } else {
    view.id = view_.id;
    view.model = view_.model;
    view.tenant = view_.tenant;
    view.state = view_.state;
    view.worker = view_.worker;
    view.attempt = view_.attempt;
    view.migrations = view_.migrations;
    view.usage = view_.usage;
    view.first_token_ns = view_.first_token_ns;
    view.error = view_.error;
  }
  view.age_ns = (ended_ns_ == 0 ? now_ns : ended_ns_) - started_ns_;
  return view;
}

std::shared_ptr<RequestPage> RequestBook::Open(std::string id, std::string model,
                                               std::string tenant) {
  const int64_t now_ns = clock_->MonotonicNs();
  auto page = std::make_shared<RequestPage>(id, std::move(model), std::move(tenant), now_ns);
  page->Note(now_ns, "received");
  const std::lock_guard lock(mutex_);
  pages_[std::move(id)] = page;
  return page;
}

void RequestBook::Close(const std::shared_ptr<RequestPage>& page, RequestState state,
                        const std::string& error) {
  page->End(state, error, clock_->MonotonicNs());
  const std::lock_guard lock(mutex_);
  ended_.push_back(page);
  if (ended_.size() <= ended_max_) return;
  // A client that came back has a later page under the same id.
  const auto oldest = pages_.find(ended_.front()->id_);
  if (oldest != pages_.end() && oldest->second == ended_.front()) pages_.erase(oldest);
  ended_.pop_front();
}

std::vector<RequestView> RequestBook::List(std::string_view tenant, bool ended,
                                           size_t limit) const {
  std::vector<std::shared_ptr<RequestPage>> pages;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, page] : pages_) {
      if (tenant.empty() || page->tenant_ == tenant) pages.push_back(page);
    }
  }
  std::sort(pages.begin(), pages.end(),
            [](const auto& a, const auto& b) { return a->started_ns_ < b->started_ns_; });
  const int64_t now_ns = clock_->MonotonicNs();
  std::vector<RequestView> views;
  for (const auto& page : pages) {
    RequestView view = page->View(now_ns, false);
    const bool over = view.state >= RequestState::kOk;
    if (ended || !over) views.push_back(std::move(view));
  }
  // The newest are what one asks for.
  if (views.size() > limit) views.erase(views.begin(), views.end() - static_cast<ptrdiff_t>(limit));
  return views;
}

std::optional<RequestView> RequestBook::Find(std::string_view tenant, const std::string& id) const {
  std::shared_ptr<RequestPage> page;
  {
    const std::lock_guard lock(mutex_);
    const auto found = pages_.find(id);
    if (found == pages_.end()) return std::nullopt;
    page = found->second;
  }
  if (!tenant.empty() && page->tenant_ != tenant) return std::nullopt;
  return page->View(clock_->MonotonicNs(), true);
}

}  // namespace fathom::master
