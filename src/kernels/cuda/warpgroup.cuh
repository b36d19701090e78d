#pragma once

// Hopper's warpgroup instructions for attention: barriers in shared memory, tensor copies into it
// and asynchronous products of 64 rows. Tiles in shared memory are columns of 64 elements, each
// with rows of 128 bytes under the 128-byte swizzle: 16-byte piece p of row r lies at piece p ^ (r
// % 8). They begin at multiples of 1024 bytes.

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/tensor_core.cuh"

namespace fathom::kernels::cuda {

// Where a 16-byte piece of a row lies in a column of 64 elements.
__device__ inline uint32_t Swizzled(int32_t row, int32_t piece) {
  return row * 128 + ((piece ^ (row % 8)) * 16);
}

__device__ inline void InitBarrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// After InitBarrier, before other threads and the copy engine use them.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The phase also waits for so many bytes of copies.
__device__ inline void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Until the phase of this parity has completed; of a fresh barrier, that of parity 1 has.
__device__ inline void WaitPhase(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (done == 0);
}

// A box of the map at (column, row, plane).
__device__ inline void CopyBox(uint32_t to, const CUtensorMap* map, int32_t column, int32_t row,
                               int32_t plane, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(plane), "r"(barrier)
      : "memory");
}

__device__ inline void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// What this thread wrote to shared memory by ordinary means is seen by the tensor cores and the
// copy engine after the next barrier.
__device__ inline void FenceAsyncProxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Barrier `id` of the block between `threads` threads: here they meet, there a thread only reports.
template <int kThreads>
__device__ inline void MeetAt(int32_t id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}
template <int kThreads>
__device__ inline void ReportAt(int32_t id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

template <int kCount>
__device__ inline void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ inline void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// A matrix operand in shared memory. Depth along a row: groups of 8 rows lie 1024 bytes apart.
__device__ inline uint64_t RowOperand(uint32_t address) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 16 |
         (address & 0x3FFFF) >> 4;
}
// Depth down the rows; columns of 64 elements lie `column_bytes` apart.
__device__ inline uint64_t ColumnOperand(uint32_t address, uint32_t column_bytes) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 |
         static_cast<uint64_t>(column_bytes >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

// Products begin after this and run until they are waited for; registers they use are not touched
// in between.
__device__ inline void FenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving accesses to an accumulator across this point.
template <int kTiles>
__device__ inline void Pin(float (&d)[kTiles][4]) {
#pragma unroll
  for (int32_t i = 0; i < kTiles; ++i) {
    asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
  }
}

template <typename T>
inline constexpr bool kIsHalf = false;
template <>
inline constexpr bool kIsHalf<__half> = true;

// clang-format off
#define FATHOM_FOUR(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define FATHOM_MULTIPLY_SHARED_128(type) \
  asm volatile( \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
      "%64, %65, p, 1, 1, 0, 0;\n}" \
      : FATHOM_FOUR(d, 0), FATHOM_FOUR(d, 1), FATHOM_FOUR(d, 2), FATHOM_FOUR(d, 3), \
        FATHOM_FOUR(d, 4), FATHOM_FOUR(d, 5), FATHOM_FOUR(d, 6), FATHOM_FOUR(d, 7), \
        FATHOM_FOUR(d, 8), FATHOM_FOUR(d, 9), FATHOM_FOUR(d, 10), FATHOM_FOUR(d, 11), \
        FATHOM_FOUR(d, 12), FATHOM_FOUR(d, 13), FATHOM_FOUR(d, 14), FATHOM_FOUR(d, 15) \
      : "l"(a), "l"(b), "r"(accumulate))
#define FATHOM_MULTIPLY_REGISTERS_64(type) \
  asm volatile( \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, " \
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;" \
      : FATHOM_FOUR(d, 0), FATHOM_FOUR(d, 1), FATHOM_FOUR(d, 2), FATHOM_FOUR(d, 3), \
        FATHOM_FOUR(d, 4), FATHOM_FOUR(d, 5), FATHOM_FOUR(d, 6), FATHOM_FOUR(d, 7) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define FATHOM_MULTIPLY_REGISTERS_128(type) \
  asm volatile( \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;" \
      : FATHOM_FOUR(d, 0), FATHOM_FOUR(d, 1), FATHOM_FOUR(d, 2), FATHOM_FOUR(d, 3), \
        FATHOM_FOUR(d, 4), FATHOM_FOUR(d, 5), FATHOM_FOUR(d, 6), FATHOM_FOUR(d, 7), \
        FATHOM_FOUR(d, 8), FATHOM_FOUR(d, 9), FATHOM_FOUR(d, 10), FATHOM_FOUR(d, 11), \
        FATHOM_FOUR(d, 12), FATHOM_FOUR(d, 13), FATHOM_FOUR(d, 14), FATHOM_FOUR(d, 15) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
// clang-format on

// d [64, 128] = A B^T, or += ; A [64, 16] and B [128, 16] are row operands. An accumulator is 8
// columns after the other, each as a C fragment of the warp's 16 rows (tensor_core.cuh).
template <typename T>
__device__ inline void MultiplyRows(float (&d)[16][4], uint64_t a, uint64_t b, int32_t accumulate) {
  if constexpr (kIsHalf<T>) {
    FATHOM_MULTIPLY_SHARED_128("f16");
  } else {
    FATHOM_MULTIPLY_SHARED_128("bf16");
  }
}

// d [64, 64 or 128] += A B: A [64, 16] as an A fragment of each warp, B [16, columns] a column
// operand.
template <typename T>
__device__ inline void MultiplyColumns(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (kIsHalf<T>) {
    FATHOM_MULTIPLY_REGISTERS_64("f16");
  } else {
    FATHOM_MULTIPLY_REGISTERS_64("bf16");
  }
}
template <typename T>
__device__ inline void MultiplyColumns(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (kIsHalf<T>) {
    FATHOM_MULTIPLY_REGISTERS_128("f16");
  } else {
    FATHOM_MULTIPLY_REGISTERS_128("bf16");
  }
}

#undef FATHOM_FOUR
#undef FATHOM_MULTIPLY_SHARED_128
#undef FATHOM_MULTIPLY_REGISTERS_64
#undef FATHOM_MULTIPLY_REGISTERS_128

}  // namespace fathom::kernels::cuda
