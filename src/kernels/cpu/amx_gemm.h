#pragma once

// Products of any number of BF16 rows with BF16 panels on AMX. Included only by kernels_amx.cc.

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/simd.h"

namespace fathom::kernels::cpu::FATHOM_ISA {

// Up to 16 rows read a panel in one pass and are bound by that: memory is asked for so far ahead.
constexpr int64_t kFetchAhead = 8192;
constexpr int64_t kStepBytes = kPanelTile * 2;

// One panel and what kRows tiles of rows hold: the last begins so that it ends with the rows, where
// it finds the sums that the one before it has found as well. Thus nothing behind the rows is read.
template <int kRows, int kCols>
__attribute__((noinline)) static void MultiplyBlock(const GemmTile& t, Fetch& fetch) {
  const auto* x = static_cast<const Bf16*>(t.a);
  const auto* panel = static_cast<const Bf16*>(t.panel);
  const int steps = t.k / kTileDepth;
  const int left = t.k % kTileDepth;
  alignas(64) float sums[kRows * kTileRows * kPanelCols];
  // The panel is padded with zeros; what lies behind a row could be NaN.
  alignas(64) Bf16 last_step[kRows * kTileRows][kTileDepth];
  const Bf16* rows[kRows];
  const Bf16* last_rows[kRows];
  float* row_sums[kRows];
  for (int i = 0; i < kRows; ++i) {
    const int row = i > 0 && i == kRows - 1 ? t.rows - kTileRows : i * kTileRows;
    rows[i] = x + row * t.lda;
    last_rows[i] = last_step[row];
    row_sums[i] = sums + row * kPanelCols;
  }
  for (int row = 0; left > 0 && row < t.rows; ++row) {
    const Bf16* from = x + row * t.lda + steps * kTileDepth;
    for (int i = 0; i < kTileDepth; ++i) last_step[row][i] = i < left ? from[i] : Bf16{0};
  }
  for (int col = 0; col < t.cols; col += kCols * kTileSums) {
    ZeroTiles<kRows, kCols>();
    AddProducts<kRows, kCols>(rows, t.lda, panel + 2 * col, steps, fetch);
    if (left > 0) {
      AddProducts<kRows, kCols>(last_rows, kTileDepth, panel + 2 * col + steps * kPanelTile, 1,
                                fetch);
    }
    StoreTiles<kRows, kCols>(row_sums, kPanelCols);
    for (float*& at : row_sums) at += kCols * kTileSums;
  }
  StoreSums(t, sums);
}

FATHOM_INLINE void MultiplyRows(const GemmTile& t, int tiles, Fetch& fetch) {
  switch (tiles) {
    case 1:
      return MultiplyBlock<1, 4>(t, fetch);
    case 2:
      return MultiplyBlock<2, 2>(t, fetch);
    default:
      return MultiplyBlock<3, 2>(t, fetch);
  }
}

// How many tiles of rows the next block takes: three, but never one behind another block.
FATHOM_INLINE int BlockTiles(int rows) {
  const int tiles = (rows + kTileRows - 1) / kTileRows;
  return tiles == 4 ? 2 : tiles < 3 ? tiles : 3;
}

// What to fetch during the first block of rows of a task's first panel: the panel itself, and what
// lies behind it if no other block comes. Later that is a panel ahead, spread over its products.
FATHOM_INLINE Fetch FetchFirst(const char* panel, int64_t panel_bytes, int rows, bool last_panel) {
  const int tiles = BlockTiles(rows);
  Fetch fetch;
  fetch.at = panel + kFetchAhead;
  fetch.end = panel + panel_bytes;
  if (tiles == 1) {
    fetch.end += kFetchAhead;
  } else if (rows <= tiles * kTileRows && !last_panel) {
    fetch.end += panel_bytes;
  }
  // One pass through the rows asks for whole steps.
  const int products = tiles == 1 ? 4 : tiles * 2;
  fetch.lines = (static_cast<int>(kStepBytes / kLineBytes) + products - 1) / products;
  return fetch;
}

FATHOM_INLINE Fetch FetchNext(const char* next, int64_t panel_bytes, int rows) {
  const int64_t products =
      int64_t{4} * ((rows + kTileRows - 1) / kTileRows) * (panel_bytes / kStepBytes);
  Fetch fetch;
  fetch.at = next;
  fetch.end = next + panel_bytes;
  fetch.lines = static_cast<int>((panel_bytes / kLineBytes + products - 1) / products);
  return fetch;
}

// Panels in turn, each with all rows: the rows stay in the second-level cache, and the next panel
// comes from memory meanwhile.
static void GemmBf16Tiles(const GemmTile& t) {
  const int64_t panel_bytes = (int64_t{t.k} + kTileDepth - 1) / kTileDepth * kStepBytes;
  const int64_t value_bytes = t.c_is_bf16 ? 2 : 4;
  const bool one_pass = t.rows <= kTileRows;
  ConfigureTiles(t.rows < kTileRows ? t.rows : kTileRows);
  for (int col = 0; col < t.cols; col += kPanelCols) {
    const bool last_panel = col + kPanelCols >= t.cols;
    const char* panel = static_cast<const char*>(t.panel) + col / kPanelCols * panel_bytes;
    GemmTile block = t;
    block.panel = panel;
    block.cols = last_panel ? t.cols - col : kPanelCols;
    block.bias = t.bias == nullptr ? nullptr : t.bias + col;
    Fetch fetch;
    if (t.from_memory && (col == 0 || one_pass)) {
      fetch = FetchFirst(panel, panel_bytes, t.rows, last_panel);
    } else if (t.from_memory && !last_panel) {
      fetch = FetchNext(panel + panel_bytes, panel_bytes, t.rows);
    }
    for (int row = 0; row < t.rows;) {
      const int left = t.rows - row;
      const int tiles = BlockTiles(left);
      block.rows = left < tiles * kTileRows ? left : tiles * kTileRows;
      block.a = static_cast<const Bf16*>(t.a) + row * t.lda;
      block.c = static_cast<char*>(t.c) + (row * t.ldc + col) * value_bytes;
      MultiplyRows(block, tiles, fetch);
      row += block.rows;
      const bool first = col == 0 && row == block.rows;
      if (t.from_memory && first && !one_pass && !last_panel && row < t.rows) {
        fetch = FetchNext(panel + panel_bytes, panel_bytes, t.rows - row);
      }
    }
  }
  ReleaseTiles();
}

}  // namespace fathom::kernels::cpu::FATHOM_ISA
