#pragma once

// AMX: eight tiles of up to 16 rows of 64 bytes, and the product of two of them. Included only by
// kernels_amx.cc.
//
// The statements are our own: the compiler's intrinsics take a tile's number as a literal only, and
// GCC 12 does not tell from them which memory they read.
//
// A product of tiles adds to 16 x 16 sums the products of 16 rows of 32 values with 32 x 16 values
// of a panel, whose layout [k / 2][64][2] is what the instruction wants. A row's sums depend on
// that row alone.

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

constexpr int kTileRows = kRowTile;
constexpr int kTileSums = 16;                                     // of a row
constexpr int kTileDepth = 32;                                    // values of k
constexpr int64_t kPanelTile = int64_t{kTileDepth} * kPanelCols;  // values of a step of k

// Tile 6 holds rows, up to six others sums. The panel takes what is left.
constexpr int kRowsTile = 6;
constexpr int kMostSums = 6;
constexpr int PanelTileOf(int num_sums, int col) {
  constexpr int kTiles[] = {7, 4, 5, 7};
  return num_sums <= 4 ? kTiles[col] : 7;
}

// `rows` <= 16: of the sums and the rows. Fewer than 16 leave room for four tiles of sums only.
FATHOM_INLINE void ConfigureTiles(int rows) {
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  static_assert(sizeof(config) == 64);
  for (int i = 0; i < 8; ++i) {
    const bool panel = i == 4 || i == 5 || i == 7;
    config.row_bytes[i] = 64;
    config.rows[i] = static_cast<uint8_t>(panel ? kTileRows : rows);
  }
  asm volatile("ldtilecfg %0" : : "m"(config));
}

// Unused tiles cost nothing when the thread is switched.
FATHOM_INLINE void ReleaseTiles() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
FATHOM_INLINE void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows are `stride` bytes apart.
template <int kTile>
FATHOM_INLINE void LoadTile(const void* p, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(p), "r"(stride) : "memory");
}
template <int kTile>
FATHOM_INLINE void StoreTile(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(p), "r"(stride) : "memory");
}
template <int kSums, int kRows, int kPanel>
FATHOM_INLINE void DotTiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kRows), "i"(kPanel));
}

// Calls fn<0>() to fn<kCount - 1>(): a tile's number is part of the instruction.
template <int kCount, typename Fn>
FATHOM_INLINE void Unroll(const Fn& fn) {
  if constexpr (kCount > 0) {
    Unroll<kCount - 1>(fn);
    fn.template operator()<kCount - 1>();
  }
}

// kRows x kCols tiles of sums. `sums` are where the tiles of rows begin, ld values apart.
template <int kRows, int kCols>
FATHOM_INLINE void ZeroTiles() {
  static_assert(kRows * kCols <= kMostSums);
  Unroll<kRows * kCols>([]<int kSum>() __attribute__((always_inline)) { ZeroTile<kSum>(); });
}
template <int kRows, int kCols>
FATHOM_INLINE void LoadTiles(const float* const (&sums)[kRows], int64_t ld) {
  Unroll<kRows * kCols>([&]<int kSum>() __attribute__((always_inline)) {
    LoadTile<kSum>(sums[kSum / kCols] + kSum % kCols * kTileSums, ld * 4);
  });
}
template <int kRows, int kCols>
FATHOM_INLINE void StoreTiles(float* const (&sums)[kRows], int64_t ld) {
  Unroll<kRows * kCols>([&]<int kSum>() __attribute__((always_inline)) {
    StoreTile<kSum>(sums[kSum / kCols] + kSum % kCols * kTileSums, ld * 4);
  });
}

// Lines of memory to ask for while products go on, some after each product of tiles.
struct Fetch {
  const char* at = nullptr;
  const char* end = nullptr;
  int lines = 0;

  __attribute__((always_inline)) void Some() {
    for (int i = 0; i < lines && at < end; ++i, at += 64) _mm_prefetch(at, _MM_HINT_T1);
  }
};

// Sums += rows times panel over `steps` steps of k. `rows` are where the tiles of rows begin, ld
// values apart; `panel` is where the columns begin, and kWidth columns wide.
template <int kRows, int kCols, int kWidth = kPanelCols>
FATHOM_INLINE void AddProducts(const Bf16* const (&rows)[kRows], int64_t ld, const Bf16* panel,
                               int steps, Fetch& fetch_in_turn) {
  constexpr int kSums = kRows * kCols;
  // Every other row goes through the columns backwards and so finds a tile of the panel loaded.
  constexpr bool kPanelStays = kSums <= 4 && kCols <= 3;
  Fetch fetch = fetch_in_turn;  // stays in registers
  for (int step = 0; step < steps; ++step) {
    const Bf16* at = panel + step * kTileDepth * kWidth;
    Unroll<kSums>([&]<int kTurn>() __attribute__((always_inline)) {
      constexpr int kRow = kTurn / kCols;
      constexpr bool kNewRow = kTurn % kCols == 0;
      constexpr int kCol = kRow % 2 == 0 ? kTurn % kCols : kCols - 1 - kTurn % kCols;
      constexpr int kPanel = PanelTileOf(kSums, kCol);
      if constexpr (kNewRow) LoadTile<kRowsTile>(rows[kRow] + step * kTileDepth, ld * 2);
      if constexpr (kRow == 0 || !(kPanelStays || kNewRow)) {
        LoadTile<kPanel>(at + 2 * kCol * kTileSums, kWidth * 4);
      }
      DotTiles<kRow * kCols + kCol, kRowsTile, kPanel>();
      fetch.Some();
    });
  }
  fetch_in_turn = fetch;
}
template <int kRows, int kCols, int kWidth = kPanelCols>
FATHOM_INLINE void AddProducts(const Bf16* const (&rows)[kRows], int64_t ld, const Bf16* panel,
                               int steps) {
  Fetch nothing;
  AddProducts<kRows, kCols, kWidth>(rows, ld, panel, steps, nothing);
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
