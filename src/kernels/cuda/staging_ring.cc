#include "kernels/cuda/staging_ring.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "common/status_macros.h"

namespace fathom::kernels::cuda {
namespace {

constexpr size_t kAlignment = 64;
// What a thread copies at a time. Less is not worth waking another one for.
constexpr size_t kPieceBytes = size_t{1} << 20;
// About what it takes to feed a PCIe 5 link from memory.
constexpr unsigned kThreadsMax = 8;

}  // namespace

StagingRing::StagingRing(size_t segment_bytes, std::vector<Segment> segments)
    : segment_bytes_(segment_bytes),
      segments_(std::move(segments)),
      pool_(std::make_unique<ThreadPool>(
          static_cast<int32_t>(std::clamp(std::thread::hardware_concurrency(), 1U, kThreadsMax)))) {
}

absl::StatusOr<StagingRing> StagingRing::Create(size_t segment_bytes, int num_segments) {
  std::vector<Segment> segments;
  for (int i = 0; i < num_segments; ++i) {
    Segment segment;
    ASSIGN_OR_RETURN(segment.memory, AllocatePinnedMemory(segment_bytes));
    ASSIGN_OR_RETURN(segment.read, CreateEvent());
    segments.push_back(std::move(segment));
  }
  return StagingRing(segment_bytes, std::move(segments));
}

absl::Status StagingRing::NextSegment(cudaStream_t stream) {
  RETURN_IF_CUDA_ERROR(cudaEventRecord(segments_[current_].read.get(), stream));
  current_ = (current_ + 1) % segments_.size();
  used_ = 0;
  RETURN_IF_CUDA_ERROR(cudaEventSynchronize(segments_[current_].read.get()));
  return absl::OkStatus();
}

void StagingRing::Fill(char* to, const char* from, size_t bytes) {
  const size_t pieces = (bytes + kPieceBytes - 1) / kPieceBytes;
  pool_->ParallelFor(static_cast<int64_t>(pieces), [&](int64_t piece, int32_t) {
    const size_t begin = static_cast<size_t>(piece) * kPieceBytes;
    std::memcpy(to + begin, from + begin, std::min(kPieceBytes, bytes - begin));
  });
}

absl::Status StagingRing::Copy(void* device, const void* host, size_t bytes, cudaStream_t stream) {
  auto* to = static_cast<char*>(device);
  const auto* from = static_cast<const char*>(host);
  while (bytes > 0) {
    if (used_ == segment_bytes_) RETURN_IF_ERROR(NextSegment(stream));
    const size_t some = std::min(bytes, segment_bytes_ - used_);
    char* staged = static_cast<char*>(segments_[current_].memory.get()) + used_;
    Fill(staged, from, some);
    RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(to, staged, some, cudaMemcpyHostToDevice, stream));
    used_ = std::min(segment_bytes_, (used_ + some + kAlignment - 1) / kAlignment * kAlignment);
    to += some;
    from += some;
    bytes -= some;
  }
  return absl::OkStatus();
}

}  // namespace fathom::kernels::cuda
