#include "common/fault_stack.h"

#include <unistd.h>

#include <algorithm>

#include "common/check.h"

namespace fathom {
namespace {

constexpr size_t kRoomBytes = size_t{64} << 10;

// A signal's frame holds the processor's registers, which are 11 KiB where it has matrices.
size_t StackBytes() {
  const long least = sysconf(_SC_MINSIGSTKSZ);
  return kRoomBytes + static_cast<size_t>(std::max(least, 0L));
}

}  // namespace

// Not filled: only the pages that a handler touches cost memory.
FaultStack::FaultStack() : memory_(new std::byte[StackBytes()]) {
  const stack_t stack{.ss_sp = memory_.get(), .ss_flags = 0, .ss_size = StackBytes()};
  FATHOM_CHECK(sigaltstack(&stack, &before_) == 0, "a second stack");
}

FaultStack::~FaultStack() { sigaltstack(&before_, nullptr); }

}  // namespace fathom
