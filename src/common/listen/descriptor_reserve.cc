#include "common/listen/descriptor_reserve.h"

#include <sys/resource.h>

#include <algorithm>

namespace fathom {
namespace {

constexpr rlim_t kReserveMax = 1024;

}  // namespace

bool IsOfReserve(int fd, DescriptorClass of) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  const rlim_t reserve = std::min(limit.rlim_cur / 4, kReserveMax);
  const rlim_t kept = of == DescriptorClass::kClients ? reserve : reserve / 2;
  return static_cast<rlim_t>(fd) >= limit.rlim_cur - kept;
}

}  // namespace fathom
