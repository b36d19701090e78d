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

RequestPage::RequestPage(RequestName name, int64_t now_ns)
    : name_(std::move(name)), started_ns_(now_ns) {
  view_.id = name_.id;
  view_.model = name_.model;
  view_.tenant = name_.tenant;
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

std::shared_ptr<RequestPage> RequestBook::Open(RequestName name) {
  const int64_t now_ns = clock_->MonotonicNs();
  auto page = std::make_shared<RequestPage>(std::move(name), now_ns);
  page->Note(now_ns, "received");
  const std::lock_guard lock(mutex_);
  pages_[page->name_.id] = page;
  return page;
}

void RequestBook::Close(const std::shared_ptr<RequestPage>& page, RequestState state,
                        const std::string& error) {
  page->End(state, error, clock_->MonotonicNs());
  const std::lock_guard lock(mutex_);
  ended_.push_back(page);
  if (ended_.size() <= ended_max_) return;
  // A client that came back has a later page under the same id.
  const auto oldest = pages_.find(ended_.front()->name_.id);
  if (oldest != pages_.end() && oldest->second == ended_.front()) pages_.erase(oldest);
  ended_.pop_front();
}

std::vector<RequestView> RequestBook::List(std::string_view tenant, bool ended,
                                           size_t limit) const {
  std::vector<std::shared_ptr<RequestPage>> pages;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, page] : pages_) {
      if (tenant.empty() || page->name_.tenant == tenant) pages.push_back(page);
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

std::shared_ptr<RequestPage> RequestBook::Look(std::string_view tenant,
                                               const std::string& id) const {
  const auto may_see = [&](const RequestPage& page) {
    return tenant.empty() || page.name_.tenant == tenant;
  };
  // "chatcmpl-" and "cmpl-": our own ids have no such letters.
  constexpr std::string_view kDialect = "cmpl-";
  const size_t dialect = id.find(kDialect);
  const std::string bare = dialect == std::string::npos ? id : id.substr(dialect + kDialect.size());
  const std::lock_guard lock(mutex_);
  if (const auto found = pages_.find(bare); found != pages_.end() && may_see(*found->second)) {
    return found->second;
  }
  std::shared_ptr<RequestPage> latest;
  for (const auto& [name, page] : pages_) {
    if (page->name_.call_id != id || !may_see(*page)) continue;
    if (latest == nullptr || page->started_ns_ > latest->started_ns_) latest = page;
  }
  return latest;
}

std::optional<RequestView> RequestBook::Find(std::string_view tenant, const std::string& id) const {
  const std::shared_ptr<RequestPage> page = Look(tenant, id);
  if (page == nullptr) return std::nullopt;
  return page->View(clock_->MonotonicNs(), true);
}

}  // namespace fathom::master
