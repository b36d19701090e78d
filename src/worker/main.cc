// The worker process: `fathom-worker --config FILE`, or flags alone. `fathom-worker bench` measures
// the engine instead.

#include <string_view>

#include "worker/bench/bench_command.h"
#include "worker/run.h"

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "bench") {
    return fathom::worker::BenchMain(argc - 1, argv + 1);
  }
  return fathom::worker::RunWorker(argc, argv, fathom::worker::Device{});
}
