#include "master/api/grpc_loop.h"

#include <boost/asio/execution.hpp>
#include <utility>

namespace fathom::master {
namespace {

// Then what was posted has its turn.
constexpr int kEventsAtOnce = 256;

}  // namespace

// Copies are cheap; equal ones run on one thread, so that nothing needs a strand.
class GrpcLoop::Executor {
 public:
  explicit Executor(std::shared_ptr<Inbox> inbox) : inbox_(std::move(inbox)) {}

  boost::asio::execution_context& query(
      boost::asio::execution::context_t /*property*/) const noexcept {
    return inbox_->timers();
  }
  static constexpr boost::asio::execution::blocking_t query(
      boost::asio::execution::blocking_t /*property*/) noexcept {
    return boost::asio::execution::blocking.never;
  }
  Executor require(boost::asio::execution::blocking_t::never_t /*property*/) const { return *this; }

  template <typename Function>
  void execute(Function&& function) const {
    inbox_->Post(std::forward<Function>(function));
  }

  friend bool operator==(const Executor& a, const Executor& b) noexcept {
    return a.inbox_ == b.inbox_;
  }
  friend bool operator!=(const Executor& a, const Executor& b) noexcept { return !(a == b); }

 private:
  std::shared_ptr<Inbox> inbox_;
};

void GrpcLoop::Inbox::Post(Task task) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;  // and destroys the task when nothing is locked
    tasks_.push_back(std::move(task));
    wake = waits_ && !waking_;
    waking_ |= wake;
  }
  // gRPC may run more than that on this thread: nothing is locked.
  if (wake) alarm_.Set(queue_, gpr_inf_past(GPR_CLOCK_MONOTONIC), static_cast<GrpcTag*>(this));
}

std::optional<std::vector<GrpcLoop::Task>> GrpcLoop::Inbox::Take() {
  const std::lock_guard lock(mutex_);
  if (closed_ && !waking_) return std::nullopt;
  waits_ = tasks_.empty();
  return std::exchange(tasks_, {});
}

void GrpcLoop::Inbox::Awake() {
  const std::lock_guard lock(mutex_);
  waits_ = false;
}

void GrpcLoop::Inbox::Close() {
  std::vector<Task> dropped;
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(tasks_);
    wake = waits_ && !waking_;
    waking_ |= wake;
  }
  if (wake) alarm_.Set(queue_, gpr_inf_past(GPR_CLOCK_MONOTONIC), static_cast<GrpcTag*>(this));
}

void GrpcLoop::Inbox::OnEvent(bool /*ok*/) {
  const std::lock_guard lock(mutex_);
  waking_ = false;
}

GrpcLoop::GrpcLoop(std::unique_ptr<grpc::ServerCompletionQueue> queue,
                   boost::asio::execution_context& timers)
    : queue_(std::move(queue)), inbox_(std::make_shared<Inbox>(queue_.get(), timers)) {}

GrpcLoop::~GrpcLoop() { Stop(); }

boost::asio::any_io_executor GrpcLoop::executor() const { return Executor(inbox_); }

void GrpcLoop::Start(size_t stack_bytes) {
  thread_.emplace(stack_bytes, [this] { Run(); });
}

void GrpcLoop::Stop() {
  if (std::exchange(stopped_, true)) return;
  inbox_->Close();
  if (thread_) {
    thread_->Join();
  }
  ended_ = true;
  queue_->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) static_cast<GrpcTag*>(tag)->OnEvent(ok);
}

bool GrpcLoop::CallNext(gpr_timespec deadline) {
  void* tag = nullptr;
  bool ok = false;
  if (queue_->AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) return false;
  if (std::exchange(waits_, false)) inbox_->Awake();
  static_cast<GrpcTag*>(tag)->OnEvent(ok);
  return true;
}

void GrpcLoop::Run() {
  const gpr_timespec now = gpr_inf_past(GPR_CLOCK_MONOTONIC);
  const gpr_timespec whenever = gpr_inf_future(GPR_CLOCK_MONOTONIC);
  while (std::optional<std::vector<Task>> tasks = inbox_->Take()) {
    waits_ = tasks->empty();
    for (Task& task : *tasks) std::exchange(task, nullptr)();
    // What has ended, most of it writes of just now.
    for (int i = 0; i < kEventsAtOnce; ++i) {
      if (!CallNext(waits_ ? whenever : now)) break;
    }
  }
  // Who hears now that something has ended may still begin the next.
  while (CallNext(now)) {
  }
}

}  // namespace fathom::master
