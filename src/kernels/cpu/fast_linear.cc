#include "kernels/cpu/fast_linear.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/bfloat16.h"

namespace fathom::kernels::cpu {
namespace {

// Of one thread, roughly: only to cut the work.
constexpr double kProductsPerUs = 40000;
constexpr double kBytesPerUs = 20000;
constexpr double kTaskUs = 10;
constexpr int64_t kCachedBytes = int64_t{512} << 10;  // of panels that several row blocks share

int64_t Ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A task multiplies some row blocks with some panels.
struct Cut {
  int32_t panels = 1;
  int32_t row_blocks = 1;
};

double PanelUs(const PackedPanels& weight, int32_t rows) {
  return std::max(1.0 * kPanelCols * weight.cols() * rows / kProductsPerUs,
                  static_cast<double>(weight.panel_bytes()) / kBytesPerUs);
}

// Few rows read every weight once and are bound by that: a task is a contiguous stretch of panels
// that is worth taking.
Cut CutFewRows(const PackedPanels& weight, int32_t rows, int32_t threads) {
  const double panel_us = PanelUs(weight, rows);
  const auto worthwhile = static_cast<int32_t>(kTaskUs / panel_us) + 1;
  const int32_t fair = std::max(weight.num_panels() / (threads * 4), 1);
  return {std::min(std::max(worthwhile, fair), weight.num_panels()), 1};
}

// Many rows: panels that stay in the second-level cache meet as many row blocks as leave a few
// tasks for every thread.
Cut CutManyRows(const PackedPanels& weight, int32_t row_blocks, int32_t threads) {
  constexpr int32_t kTasksPerThread = 8;
  const int64_t cached = std::max<int64_t>(kCachedBytes / weight.panel_bytes(), 1);
  const auto panels = static_cast<int32_t>(std::min<int64_t>(cached, weight.num_panels()));
  const int64_t groups = Ceiling(weight.num_panels(), panels);
  const int64_t chunks =
      std::clamp<int64_t>(Ceiling(threads * kTasksPerThread, groups), 1, row_blocks);
  return {panels, static_cast<int32_t>(Ceiling(row_blocks, chunks))};
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

FastLinear::Rows FastLinear::RowsFor(const LinearArgs& args, int32_t first_row, int32_t num_rows,
                                     int32_t cols, bool widen, int32_t thread) {
  const char* x = static_cast<const char*>(args.x) +
                  int64_t{first_row} * cols * static_cast<int64_t>(SizeOf(args.dtype));
  if (!widen) return {x, first_row, num_rows};
  kernels_->to_float(widened_[thread].data(), x, int64_t{num_rows} * cols);
  return {widened_[thread].data(), first_row, num_rows};
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
  const Cut cut = row_blocks == 1 ? CutFewRows(weight, num_rows, pool_->num_threads())
                                  : CutManyRows(weight, row_blocks, pool_->num_threads());
  const int64_t chunks = Ceiling(row_blocks, cut.row_blocks);

  const auto run = [&](int64_t task, int32_t thread) {
    const auto first_panel = static_cast<int32_t>(task / chunks) * cut.panels;
    const int32_t end_panel = std::min(first_panel + cut.panels, weight.num_panels());
    const auto first_block = static_cast<int32_t>(task % chunks) * cut.row_blocks;
    const int32_t end_block = std::min(first_block + cut.row_blocks, row_blocks);
    for (int32_t block = first_block; block < end_block; ++block) {
      const int32_t first_row = begin + block * kRowBlock;
      const Rows rows = RowsFor(args, first_row, std::min(kRowBlock, args.rows - first_row),
                                weight.cols(), widen, thread);
      MultiplyPanels(gemm, args, weight, rows, first_panel, end_panel);
    }
  };
  pool_->ParallelFor(Ceiling(weight.num_panels(), cut.panels) * chunks,
                     weight.num_panels() * PanelUs(weight, num_rows), run);
}

void FastLinear::MultiplyPanels(void (*gemm)(const GemmTile&), const LinearArgs& args,
                                const PackedPanels& weight, const Rows& rows, int32_t first_panel,
                                int32_t end_panel) {
  GemmTile tile;
  tile.a = rows.data;
  tile.rows = rows.count;
  tile.k = weight.cols();
  tile.lda = weight.cols();
  tile.ldc = weight.rows();
  tile.from_memory = true;
  tile.c_is_bf16 = args.out_dtype == DType::kBF16;
  for (int32_t panel = first_panel; panel < end_panel; ++panel) {
    const int64_t col = int64_t{panel} * kPanelCols;
    tile.panel = weight.panel(panel);
    tile.cols = static_cast<int32_t>(std::min<int64_t>(kPanelCols, weight.rows() - col));
    tile.bias = args.bias == nullptr ? nullptr : args.bias + col;
    tile.c = static_cast<char*>(args.out) +
             (rows.first * int64_t{weight.rows()} + col) * SizeOf(args.out_dtype);
    gemm(tile);
  }
}

}  // namespace fathom::kernels::cpu
