#include "worker/engine/grammar_pool.h"

#include <utility>

#include "common/fault_stack.h"

namespace fathom::worker {

GrammarPool::GrammarPool(std::shared_ptr<const GrammarFactory> factory, int32_t num_threads,
                         size_t capacity, Done done)
    : factory_(std::move(factory)), done_(std::move(done)), jobs_(capacity) {
  for (int32_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

GrammarPool::~GrammarPool() {
  (void)jobs_.Drain();
  jobs_.Close();
  for (std::thread& thread : threads_) thread.join();
}

void GrammarPool::Compile(const std::string& id, uint32_t attempt, GrammarSpec spec) {
  if (!jobs_.TryPush(Job{id, attempt, std::move(spec)})) {
    done_(id, attempt, absl::ResourceExhaustedError("too many grammars wait to be compiled"));
  }
}

void GrammarPool::Work() {
  const FaultStack fault_stack;
  while (std::optional<Job> job = jobs_.Pop()) {
    done_(job->id, job->attempt, factory_->Compile(job->spec));
  }
}

}  // namespace fathom::worker
