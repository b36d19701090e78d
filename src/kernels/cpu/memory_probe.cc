#include "kernels/cpu/memory_probe.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <optional>

#include "common/status_macros.h"
#include "kernels/cpu/fast_backend.h"

namespace fathom::kernels::cpu {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // what a thread takes at a time
constexpr int64_t kLeastBytes = int64_t{512} << 20;
constexpr int64_t kMostBytes = int64_t{8} << 30;
constexpr int64_t kTimesTheCache = 16;
constexpr int64_t kBytesPerThread = int64_t{64} << 20;  // threads may lie in several caches

int64_t BufferBytes(int32_t threads) {
  // sysconf tells the sum over all caches of the package, of which a guest sees a part.
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  int64_t cache_kib = 0;
  file >> cache_kib;
  const int64_t wanted = std::max(cache_kib * 1024 * kTimesTheCache, threads * kBytesPerThread);
  return std::clamp(wanted, kLeastBytes, kMostBytes) / kChunk * kChunk;
}

template <typename Fn>
double BytesPerSecond(int64_t bytes, const Fn& read) {
  const auto start = std::chrono::steady_clock::now();
  read();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return static_cast<double>(bytes) / took.count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryProbe>> MemoryProbe::Create(int32_t threads) {
  const std::optional<Isa> isa = DetectIsa();
  if (!isa) return absl::FailedPreconditionError("measuring needs a processor with AVX2 and FMA");
  std::unique_ptr<MemoryProbe> probe(new MemoryProbe(KernelsFor(*isa), threads));
  probe->backend_ = CreateFastBackend({.threads = 1}, *isa);
  ASSIGN_OR_RETURN(probe->buffer_, probe->backend_->Allocate(BufferBytes(probe->num_threads())));
  // Untouched pages would all be one page of zeros, read from the cache.
  auto* data = probe->buffer_.as<char>();
  probe->pool_.ParallelFor(probe->bytes() / kChunk, [&](int64_t chunk, int32_t) {
    std::fill_n(data + chunk * kChunk, kChunk, char{1});
  });
  return probe;
}

double MemoryProbe::AllThreads() {
  const auto* data = buffer_.as<char>();
  return BytesPerSecond(bytes(), [&] {
    pool_.ParallelFor(bytes() / kChunk, [&](int64_t chunk, int32_t) {
      [[maybe_unused]] volatile float sink = kernels_.read_stream(data + chunk * kChunk, kChunk);
    });
  });
}

double MemoryProbe::OneThread() {
  const int64_t part = bytes() / 2 / kChunk * kChunk;
  return BytesPerSecond(part, [&] {
    [[maybe_unused]] volatile float sink = kernels_.read_stream(buffer_.data(), part);
  });
}

}  // namespace fathom::kernels::cpu
