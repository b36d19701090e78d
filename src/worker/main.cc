// The worker process: `fathom-worker --config FILE`, or flags alone.

#include "worker/run.h"

int main(int argc, char** argv) {
  return fathom::worker::RunWorker(argc, argv, fathom::worker::Device{});
}
