#include "worker/parent_tie.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace fathom::worker {

bool TieToParent() {
  const pid_t parent = getppid();
  return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

}  // namespace fathom::worker
