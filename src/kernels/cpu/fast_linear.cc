#include "kernels/cpu/fast_linear.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/bfloat16.h"

namespace fathom::kernels::cpu {
namespace {

// Of one thread, roughly: only to cut the work.
constexpr double kProductsPerUs = 40000;
constexpr double kTileProductsPerUs = 500000;
constexpr double kBytesPerUs = 20000;
constexpr double kTaskUs = 10;
constexpr int64_t kCachedBytes = int64_t{512} << 10;   // of panels that several row blocks share
constexpr int64_t kCachedRowBytes = int64_t{1} << 20;  // of rows that several panels share
constexpr int32_t kTasksPerThread = 8;                 // of many rows

int64_t Ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A task multiplies some row blocks with some panels.
struct Cut {
  int32_t panels = 1;
  int32_t row_blocks = 1;
};

double PanelUs(const PackedPanels& weight, int32_t rows, double products_per_us) {
  return std::max(1.0 * kPanelCols * weight.cols() * rows / products_per_us,
                  static_cast<double>(weight.panel_bytes()) / kBytesPerUs);
}

// Few rows read every weight once and are bound by that: a task is a contiguous stretch of panels
// that is worth taking.
Cut CutFewRows(const PackedPanels& weight, double panel_us, int32_t threads) {
  const auto worthwhile = static_cast<int32_t>(kTaskUs / panel_us) + 1;
  const int32_t fair = std::max(weight.num_panels() / (threads * 4), 1);
  return {std::min(std::max(worthwhile, fair), weight.num_panels()), 1};
}

// Many rows: panels that stay in the second-level cache meet as many row blocks as leave a few
// tasks for every thread.
Cut CutManyRows(const PackedPanels& weight, int32_t row_blocks, int32_t threads) {
  const int64_t cached = std::max<int64_t>(kCachedBytes / weight.panel_bytes(), 1);
  const auto panels = static_cast<int32_t>(std::min<int64_t>(cached, weight.num_panels()));
  const int64_t groups = Ceiling(weight.num_panels(), panels);
  const int64_t chunks =
      std::clamp<int64_t>(Ceiling(threads * kTasksPerThread, groups), 1, row_blocks);
  return {panels, static_cast<int32_t>(Ceiling(row_blocks, chunks))};
}

// Many rows on tiles: rows that stay in the second-level cache meet panels that pass through it.
Cut CutManyRowsForTiles(const PackedPanels& weight, int32_t row_blocks, int32_t threads) {
  const int64_t block_bytes = int64_t{2} * kRowBlock * weight.cols();
  const int64_t wanted = int64_t{threads} * kTasksPerThread;
  // As many blocks of rows as the cache holds, but two at least for a panel from memory, and fewer
  // where panels alone make too few tasks.
  const int64_t cached = std::max<int64_t>(kCachedRowBytes / block_bytes, 2);
  const int64_t chunks = std::clamp<int64_t>(
      std::max(Ceiling(row_blocks, cached), wanted / 2 / weight.num_panels()), 1, row_blocks);
  const int64_t panels = std::max<int64_t>(weight.num_panels() * chunks / wanted, 1);
  return {static_cast<int32_t>(panels), static_cast<int32_t>(Ceiling(row_blocks, chunks))};
}

const void* RowsOf(const LinearArgs& args, const PackedPanels& weight, int32_t first_row) {
  return static_cast<const char*>(args.x) +
         int64_t{first_row} * weight.cols() * static_cast<int64_t>(SizeOf(args.dtype));
}

GemmTile TileOf(const LinearArgs& args, const PackedPanels& weight, int32_t first_row,
                int32_t num_rows, int32_t first_panel, int32_t num_panels) {
  const int64_t col = int64_t{first_panel} * kPanelCols;
  GemmTile tile;
  tile.a = RowsOf(args, weight, first_row);
  tile.panel = weight.panel(first_panel);
  tile.c = static_cast<char*>(args.out) +
           (first_row * int64_t{weight.rows()} + col) * SizeOf(args.out_dtype);
  tile.bias = args.bias == nullptr ? nullptr : args.bias + col;
  tile.lda = weight.cols();
  tile.ldc = weight.rows();
  tile.rows = num_rows;
  tile.k = weight.cols();
  tile.cols = static_cast<int32_t>(
      std::min<int64_t>(int64_t{num_panels} * kPanelCols, weight.rows() - col));
  tile.c_is_bf16 = args.out_dtype == DType::kBF16;
  tile.from_memory = true;
  return tile;
}

}  // namespace

FastLinear::FastLinear(const KernelTable* kernels, ThreadPool* pool,
                       std::unique_ptr<OneDnnGemm> onednn)
    : kernels_(kernels), pool_(pool), onednn_(std::move(onednn)), widened_(pool->num_threads()) {}

void FastLinear::Reserve(int32_t cols) {
  for (std::vector<float>& scratch : widened_) {
    scratch.resize(std::max(scratch.size(), static_cast<size_t>(cols) * kRowBlock));
  }
}

void FastLinear::Run(const LinearArgs& args, const PackedPanels& weight) {
  if (kernels_->gemm_bf16_tiles != nullptr && args.dtype == DType::kBF16 &&
      weight.dtype() == DType::kBF16) {
    return RunOnTiles(args, weight);
  }
  const int32_t done =
      onednn_ != nullptr && onednn_->Wants(args, weight) ? RunOneDnn(args, weight) : 0;
  if (done < args.rows) RunOwn(args, weight, done);
}

int32_t FastLinear::RunOneDnn(const LinearArgs& args, const PackedPanels& weight) {
  const int32_t blocks = args.rows / OneDnnGemm::kRows;
  if (blocks < pool_->num_threads()) return 0;  // some threads would stand idle
  std::atomic<bool> failed = false;
  pool_->ParallelFor(blocks, [&](int64_t block, int32_t) {
    const auto first_row = static_cast<int32_t>(block) * OneDnnGemm::kRows;
    if (!onednn_->Multiply(args, weight, first_row)) failed = true;
  });
  return failed ? 0 : blocks * OneDnnGemm::kRows;
}

void FastLinear::RunOnTiles(const LinearArgs& args, const PackedPanels& weight) {
  const double panel_us = PanelUs(weight, args.rows, kTileProductsPerUs);
  const auto row_blocks = static_cast<int32_t>(Ceiling(args.rows, kRowBlock));
  const Cut cut = row_blocks == 1 ? CutFewRows(weight, panel_us, pool_->num_threads())
                                  : CutManyRowsForTiles(weight, row_blocks, pool_->num_threads());
  const int64_t chunks = Ceiling(row_blocks, cut.row_blocks);
  const auto run = [&](int64_t task, int32_t) {
    const auto panel = static_cast<int32_t>(task / chunks) * cut.panels;
    const auto row = static_cast<int32_t>(task % chunks) * cut.row_blocks * kRowBlock;
    const int32_t num_rows = std::min(cut.row_blocks * kRowBlock, args.rows - row);
    kernels_->gemm_bf16_tiles(TileOf(args, weight, row, num_rows, panel, cut.panels));
  };
  pool_->ParallelFor(Ceiling(weight.num_panels(), cut.panels) * chunks,
                     weight.num_panels() * panel_us, run);
}

const float* FastLinear::Widen(const void* x, int64_t count, int32_t thread) {
  float* widened = widened_[thread].data();
  kernels_->to_float(widened, x, count);
  return widened;
}

void FastLinear::RunOwn(const LinearArgs& args, const PackedPanels& weight, int32_t begin) {
  const bool bf16 = weight.dtype() == DType::kBF16;
  const bool dot = bf16 && args.dtype == DType::kBF16 && kernels_->gemm_bf16_dot != nullptr;
  const bool widen = args.dtype == DType::kBF16 && !dot;
  const auto gemm = dot    ? kernels_->gemm_bf16_dot
                    : bf16 ? kernels_->gemm_bf16_panel
                           : kernels_->gemm_f32;
  const int32_t num_rows = args.rows - begin;
  const auto row_blocks = static_cast<int32_t>(Ceiling(num_rows, kRowBlock));
  const double panel_us = PanelUs(weight, num_rows, kProductsPerUs);
  const Cut cut = row_blocks == 1 ? CutFewRows(weight, panel_us, pool_->num_threads())
                                  : CutManyRows(weight, row_blocks, pool_->num_threads());
  const int64_t chunks = Ceiling(row_blocks, cut.row_blocks);

  const auto run = [&](int64_t task, int32_t thread) {
    const auto first_panel = static_cast<int32_t>(task / chunks) * cut.panels;
    const int32_t end_panel = std::min(first_panel + cut.panels, weight.num_panels());
    const auto first_block = static_cast<int32_t>(task % chunks) * cut.row_blocks;
    const int32_t end_block = std::min(first_block + cut.row_blocks, row_blocks);
    for (int32_t block = first_block; block < end_block; ++block) {
      const int32_t first_row = begin + block * kRowBlock;
      const int32_t count = std::min(kRowBlock, args.rows - first_row);
      const void* x = RowsOf(args, weight, first_row);
      if (widen) x = Widen(x, int64_t{count} * weight.cols(), thread);
      for (int32_t panel = first_panel; panel < end_panel; ++panel) {
        GemmTile tile = TileOf(args, weight, first_row, count, panel, 1);
        tile.a = x;
        gemm(tile);
      }
    }
  };
  pool_->ParallelFor(Ceiling(weight.num_panels(), cut.panels) * chunks,
                     weight.num_panels() * panel_us, run);
}

}  // namespace fathom::kernels::cpu
