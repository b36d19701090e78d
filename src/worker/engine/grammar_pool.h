#pragma once

// Compiles grammars on a few threads of its own, so that no engine thread waits for one. Thread
// safety: Compile may be called from any thread; `done` is called on the pool's threads.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bounded_queue.h"
#include "worker/sampling/grammar.h"

namespace fathom::worker {

class GrammarPool {
 public:
  using Result = absl::StatusOr<std::unique_ptr<GrammarState>>;
  using Done = std::function<void(const std::string& id, uint32_t attempt, Result)>;

  GrammarPool(std::shared_ptr<const GrammarFactory> factory, int32_t num_threads, size_t capacity,
              Done done);
  // Finishes what is being compiled, drops what waits.
  ~GrammarPool();
  GrammarPool(const GrammarPool&) = delete;
  GrammarPool& operator=(const GrammarPool&) = delete;

  // `done` is called in any case: at once, with RESOURCE_EXHAUSTED, when too many wait.
  void Compile(const std::string& id, uint32_t attempt, GrammarSpec spec);

 private:
  struct Job {
    std::string id;
    uint32_t attempt = 0;
    GrammarSpec spec;
  };
  void Work();

  const std::shared_ptr<const GrammarFactory> factory_;
  const Done done_;
  BoundedQueue<Job> jobs_;
  std::vector<std::thread> threads_;
};

}  // namespace fathom::worker
