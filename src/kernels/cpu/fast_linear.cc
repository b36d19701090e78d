#include "kernels/cpu/fast_linear.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels/bfloat16.h"

namespace fathom::kernels::cpu {
namespace {

constexpr double kProductsPerUs = 20000;  // of one thread, roughly: only to cut the work
constexpr double kTaskUs = 20;

// A stretch of panels that is worth a task of its own, leaving a few tasks for every thread.
int32_t PanelsPerTask(const PackedPanels& weight, int32_t row_blocks, int32_t rows,
                      int32_t threads) {
  const double panel_us =
      1.0 * kPanelCols * weight.cols() * std::min(rows, kRowBlock) / kProductsPerUs;
  const auto worthwhile = static_cast<int32_t>(kTaskUs / panel_us) + 1;
  const int32_t fair = std::max(weight.num_panels() * row_blocks / (threads * 4), 1);
  return std::min(std::max(worthwhile, fair), weight.num_panels());
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

void FastLinear::RunOwn(const LinearArgs& args, const PackedPanels& weight, int32_t begin) {
  const bool widen = args.dtype == DType::kBF16;
  const auto gemm = weight.dtype() == DType::kBF16 ? kernels_->gemm_bf16_panel : kernels_->gemm_f32;
  const int64_t cols = weight.cols();
  const int32_t num_rows = args.rows - begin;
  const int32_t row_blocks = (num_rows + kRowBlock - 1) / kRowBlock;
  const int32_t panels_per_task = PanelsPerTask(weight, row_blocks, num_rows, pool_->num_threads());
  const int32_t stretches = (weight.num_panels() + panels_per_task - 1) / panels_per_task;

  const auto run = [&](int64_t task, int32_t thread) {
    const int32_t first_row = begin + static_cast<int32_t>(task / stretches) * kRowBlock;
    const auto first_panel = static_cast<int32_t>(task % stretches) * panels_per_task;
    const int32_t end_panel = std::min(first_panel + panels_per_task, weight.num_panels());
    GemmTile tile;
    tile.rows = std::min(kRowBlock, args.rows - first_row);
    tile.k = weight.cols();
    tile.lda = cols;
    tile.ldc = weight.rows();
    tile.c_is_bf16 = args.out_dtype == DType::kBF16;
    if (widen) {
      const auto* x = static_cast<const BFloat16*>(args.x) + first_row * cols;
      kernels_->to_float(widened_[thread].data(), x, tile.rows * cols);
      tile.a = widened_[thread].data();
    } else {
      tile.a = static_cast<const float*>(args.x) + first_row * cols;
    }
    for (int32_t panel = first_panel; panel < end_panel; ++panel) {
      const int64_t col = int64_t{panel} * kPanelCols;
      tile.panel = weight.panel(panel);
      tile.cols = static_cast<int32_t>(std::min<int64_t>(kPanelCols, weight.rows() - col));
      tile.bias = args.bias == nullptr ? nullptr : args.bias + col;
      tile.c = static_cast<char*>(args.out) +
               (first_row * int64_t{weight.rows()} + col) * SizeOf(args.out_dtype);
      gemm(tile);
    }
  };
  pool_->ParallelFor(int64_t{row_blocks} * stretches,
                     1.0 * num_rows * cols * weight.rows() / kProductsPerUs, run);
}

}  // namespace fathom::kernels::cpu
