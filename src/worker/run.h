#pragma once

// A worker process from its command line to its exit code, on whatever device it is given.

#include "worker/device.h"

namespace fathom::worker {

// Returns when the process was asked to stop and has drained, or when it cannot go on. Call it
// first in main: it blocks signals for all threads to come.
int RunWorker(int argc, const char* const* argv, const Device& device);

}  // namespace fathom::worker
