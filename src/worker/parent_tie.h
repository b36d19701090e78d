#pragma once

// A process that must not outlive the one that started it.

namespace fathom::worker {

// From now on the kernel kills this process when its parent ends. False when the parent is gone
// already. A parent that sets the tie before exec leaves no gap.
bool TieToParent();

}  // namespace fathom::worker
