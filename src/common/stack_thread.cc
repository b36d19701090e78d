#include "common/stack_thread.h"

#include <memory>
#include <utility>

#include "common/check.h"
#include "common/fault_stack.h"

namespace fathom {
namespace {

void* Run(void* argument) {
  const FaultStack fault_stack;
  const std::unique_ptr<std::function<void()>> work(static_cast<std::function<void()>*>(argument));
  (*work)();
  return nullptr;
}

}  // namespace

StackThread::StackThread(size_t stack_bytes, std::function<void()> work) {
  auto owned = std::make_unique<std::function<void()>>(std::move(work));
  pthread_attr_t attributes;
  FATHOM_CHECK(pthread_attr_init(&attributes) == 0, "no memory for a thread");
  FATHOM_CHECK(pthread_attr_setstacksize(&attributes, stack_bytes) == 0, "a stack of such a size");
  FATHOM_CHECK(pthread_create(&thread_, &attributes, Run, owned.get()) == 0, "no thread left");
  (void)owned.release();  // the thread's now
  pthread_attr_destroy(&attributes);
}

StackThread::StackThread(StackThread&& other) noexcept
    : thread_(other.thread_), joinable_(std::exchange(other.joinable_, false)) {}

StackThread::~StackThread() { FATHOM_CHECK(!joinable_, "a thread nobody joined"); }

void StackThread::Join() {
  FATHOM_CHECK(std::exchange(joinable_, false), "joined twice");
  pthread_join(thread_, nullptr);
}

}  // namespace fathom
