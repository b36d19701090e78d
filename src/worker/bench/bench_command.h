#pragma once

// `fathom-worker bench`: measures the engine of this machine and ends.

namespace fathom::worker {

// `argv[0]` is the command's name. Returns the exit code (command_line.h).
int BenchMain(int argc, const char* const* argv);

}  // namespace fathom::worker
