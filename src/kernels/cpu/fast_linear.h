#pragma once

// Matrix products of the fast backend: which kernel, cut into which tasks. Thread safety: none.
//
// Our own kernels sum every output over k in ascending order in one task, so that it does not
// depend on the number of rows. BF16 rows meet BF16 weights on AMX or in dot-product instructions
// where those are the faster way (cpu_features.h); otherwise both are multiplied in FP32.

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/onednn_gemm.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/op_args.h"
#include "kernels/thread_pool.h"

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
  // BF16 rows and weights, on AMX.
  void RunOnTiles(const LinearArgs& args, const PackedPanels& weight);
  // `count` BF16 values in FP32, until the thread's next call.
  const float* Widen(const void* x, int64_t count, int32_t thread);
  // Rows [begin, args.rows).
  void RunOwn(const LinearArgs& args, const PackedPanels& weight, int32_t begin);

  const KernelTable* const kernels_;
  ThreadPool* const pool_;
  const std::unique_ptr<OneDnnGemm> onednn_;
  std::vector<std::vector<float>> widened_;  // [threads] of [kRowBlock, cols]
};

}  // namespace fathom::kernels::cpu
