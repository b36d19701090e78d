#pragma once

// Debian builds abseil with its debug checks in: with every lock of gRPC's it looks, under one lock
// for all threads, whether locks are taken in an order that could end in a deadlock. That is for
// those who write gRPC; it takes a twentieth of what a message costs.

#include "absl/synchronization/mutex.h"

namespace fathom {

// First thing in main.
inline void SkipLockOrderChecks() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
}

}  // namespace fathom
