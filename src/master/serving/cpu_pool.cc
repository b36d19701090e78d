#include "master/serving/cpu_pool.h"

#include <utility>

#include "text/text.h"

namespace fathom::master {

CpuPool::CpuPool(int num_threads, size_t queue_max) : queue_(queue_max) {
  threads_.reserve(num_threads);
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back(text::kDeepStackBytes, [this] {
      while (auto work = queue_.Pop()) (*work)();
    });
  }
}

CpuPool::~CpuPool() { Stop(); }

void CpuPool::Stop() {
  queue_.Close();
  // Dropped outside the queue's lock: the work may own things that submit on their way out.
  queue_.Drain().clear();
  for (StackThread& thread : threads_) thread.Join();
  threads_.clear();
}

bool CpuPool::Submit(std::function<void()> work) { return queue_.TryPush(std::move(work)); }

}  // namespace fathom::master
