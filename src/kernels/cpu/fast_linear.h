#pragma once

// Matrix products of the fast backend: which kernel, cut into which tasks. Thread safety: none.
//
// Our own kernels sum every output over k in ascending order in one task, so that it does not
// depend on the number of rows. Both weight types are multiplied in FP32: the BF16 dot-product
// instructions were tried, and on a Sapphire Rapids gave 88 GFLOP/s a core where widened FP32 gives
// 140.

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/onednn_gemm.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_args.h"

namespace fathom::kernels::cpu {

class FastLinear {
 public:
  // Both outlive it. Without `onednn`, no sum depends on the number of rows.
  FastLinear(const KernelTable* kernels, ThreadPool* pool, std::unique_ptr<OneDnnGemm> onednn);

  // Makes room for inputs of `cols` columns; called at load time.
  void Reserve(int32_t cols);

  // REQUIRES: Reserve(weight.cols()) came before.
  void Run(const LinearArgs& args, const PackedPanels& weight);

 private:
  // Whole blocks of rows; the number of rows that are done.
  int32_t RunOneDnn(const LinearArgs& args, const PackedPanels& weight);
  // Rows [begin, args.rows).
  void RunOwn(const LinearArgs& args, const PackedPanels& weight, int32_t begin);

  const KernelTable* const kernels_;
  ThreadPool* const pool_;
  const std::unique_ptr<OneDnnGemm> onednn_;
  std::vector<std::vector<float>> widened_;  // [threads] of [kRowBlock, cols]
};

}  // namespace fathom::kernels::cpu
