// The wide linear kernel against sums in double precision, over many shapes and types, by every
// kind of plan, repeated, captured and in programmatic chains. Skips without a GPU.

#include <limits>

#include "kernels/cuda/cuda_linear_testing.h"

namespace fathom::kernels::cuda {
namespace {

class CudaLinearWideTest : public LinearTest {
 protected:
  cudaError_t Wide(LinearProblem& problem, const WidePlan& plan, bool programmatic) {
    return LaunchWideLinear(problem.args(), problem.weight(), plan, {.programmatic = programmatic},
                            stream_);
  }
  cudaError_t Wide(LinearProblem& problem, bool programmatic) {
    return LaunchWideLinear(problem.args(), problem.weight(), {.programmatic = programmatic},
                            stream_);
  }
};

TEST_F(CudaLinearWideTest, ManyRowCounts) {
  const int32_t ns[] = {8, 64, 104, 200, 520, 1024, 4104};
  const int32_t ks[] = {8, 64, 72, 136, 200, 512, 1000, 1032};
  const DType types[] = {DType::kBF16, DType::kF16};
  const DType outs[] = {DType::kBF16, DType::kF16, DType::kF32};
  uint32_t seed = 1;
  for (int32_t rows = 1; rows <= kWideRowsMax; ++rows) {
    for (int i = 0; i < 3; ++i, ++seed) {
      const DType dtype = types[seed % 2];
      const LinearCase c = {.rows = rows,
                            .n = ns[seed * 5 % 7],
                            .k = ks[seed * 7 % 8],
                            .x_dtype = dtype,
                            .w_dtype = dtype,
                            .out_dtype = outs[i],
                            .bias = seed % 3 == 1};
      SCOPED_TRACE(testing::Message() << c);
      LinearProblem problem(c, seed);
      ASSERT_NO_FATAL_FAILURE(
          ExpectRightAndStable(problem, [&] { ASSERT_CUDA(Wide(problem, seed % 2 == 0)); }));
    }
  }
}

TEST_F(CudaLinearWideTest, ModelShapes) {
  const LinearCase cases[] = {{.rows = 32, .n = 4608, .k = 1792, .bias = true},
                              {.rows = 64, .n = 1024, .k = 14336},
                              {.rows = 24, .n = 14336, .k = 512},
                              {.rows = 48, .n = 6144, .k = 1024},
                              {.rows = 64, .n = 4096, .k = 2048}};
  uint32_t seed = 100;
  for (const LinearCase& c : cases) {
    SCOPED_TRACE(testing::Message() << c);
    LinearProblem problem(c, ++seed);
    ASSERT_NO_FATAL_FAILURE(
        ExpectRightAndStable(problem, [&] { ASSERT_CUDA(Wide(problem, true)); }));
  }
}

TEST_F(CudaLinearWideTest, EveryKindOfPlan) {
  uint32_t seed = 1000;
  int plans = 0;
  for (const int32_t rows : {1, 17, 32, 33, 50, 64}) {
    const LinearCase c = {.rows = rows,
                          .n = 776,
                          .k = 1480,
                          .out_dtype = seed % 2 == 0 ? DType::kBF16 : DType::kF32,
                          .bias = true};
    LinearProblem problem(c, ++seed);
    for (const int32_t tile_rows : {8, 24, 40, 64, 72, 96, 128, 136, 192, 256}) {
      for (const int32_t splits : {1, 2}) {
        for (const int32_t stages : {2, 3, 4, 6}) {
          WidePlan plan = {.tile_rows = tile_rows, .splits = splits, .stages = stages};
          const bool parts = splits * WideDepthGroups(tile_rows) > 1;
          plan = CompleteWidePlan(plan, rows, c.n, c.k, parts ? 800 : 1 + plans % 20);
          if (!IsValidWidePlan(plan, rows, c.n, c.k)) continue;
          ++plans;
          SCOPED_TRACE(testing::Message()
                       << c << ": tile rows " << tile_rows << ", splits " << splits << ", stages "
                       << stages << ", clusters " << plan.clusters);
          problem.out().Poison();
          ASSERT_CUDA(Wide(problem, plan, plans % 2 == 0));
          ASSERT_CUDA(cudaStreamSynchronize(stream_));
          ASSERT_NO_FATAL_FAILURE(problem.ExpectCorrect());
        }
      }
    }
  }
  EXPECT_GT(plans, 200);
}

// What is not finite stays in its row of x or of W, whatever lies beside it in shared memory.
TEST_F(CudaLinearWideTest, KeepsNonFiniteInItsPlace) {
  constexpr int32_t kN = 328;
  constexpr int32_t kK = 200;
  constexpr int32_t kBadToken = 19;
  constexpr int32_t kBadColumn = 130;
  for (const int32_t rows : {21, 40, 64}) {
    std::vector<float> x(static_cast<size_t>(rows) * kK, 0.5F);
    std::vector<float> w(static_cast<size_t>(kN) * kK, 0.25F);
    x[kBadToken * kK + 199] = std::numeric_limits<float>::quiet_NaN();
    w[kBadColumn * kK + 7] = std::numeric_limits<float>::infinity();
    const DeviceBuffer x_device(Encode(x, DType::kBF16));
    const DeviceBuffer w_device(Encode(w, DType::kBF16));
    const DeviceBuffer out(static_cast<size_t>(rows) * kN * sizeof(float));
    LinearArgs args;
    args.out = out.data();
    args.x = x_device.data();
    args.rows = rows;
    args.dtype = DType::kBF16;
    args.out_dtype = DType::kF32;
    ASSERT_CUDA(
        LaunchWideLinear(args, {.data = w_device.data(), .rows = kN, .cols = kK}, {}, stream_));
    ASSERT_CUDA(cudaStreamSynchronize(stream_));
    const std::vector<float> got = Decode(out.Read(), DType::kF32);
    out.ExpectGuardsWhole();
    for (int32_t token = 0; token < rows; ++token) {
      for (int32_t column = 0; column < kN; ++column) {
        const float value = got[static_cast<size_t>(token) * kN + column];
        if (token == kBadToken) {
          ASSERT_TRUE(std::isnan(value)) << token << ", " << column;
        } else if (column == kBadColumn) {
          ASSERT_TRUE(std::isinf(value)) << token << ", " << column;
        } else {
          ASSERT_EQ(value, 25) << token << ", " << column;
        }
      }
    }
  }
}

// Each output is the next input, so a kernel that reads or writes too early shows. Many rounds, for
// a race need not show in one.
TEST_F(CudaLinearWideTest, ProgrammaticChainEqualsSerialOne) {
  constexpr int32_t kWidth = 1024;
  constexpr int kLayers = 24;
  for (const int32_t rows : {32, 64}) {
    LinearProblem problem({.rows = rows, .n = kWidth, .k = kWidth}, 5);
    std::vector<float> weights(size_t{kWidth} * kWidth * kLayers);
    std::mt19937 random(6);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(kWidth)));
    for (float& w : weights) w = normal(random);
    const DeviceBuffer weight(Encode(weights, DType::kBF16));
    const size_t bytes = problem.out().bytes();
    DeviceBuffer buffers[2] = {DeviceBuffer(bytes), DeviceBuffer(bytes)};
    const auto run = [&](bool programmatic, int32_t splits) {
      const WidePlan plan = CompleteWidePlan({.tile_rows = splits > 1 ? 64 : 72, .splits = splits},
                                             rows, kWidth, kWidth, 132);
      for (int layer = 0; layer < kLayers; ++layer) {
        LinearArgs args = problem.args();
        if (layer > 0) args.x = buffers[(layer + 1) % 2].data();
        args.out = buffers[layer % 2].data();
        WeightView view = problem.weight();
        view.data = static_cast<char*>(weight.data()) + size_t{kWidth} * kWidth * 2 * layer;
        ASSERT_CUDA(LaunchWideLinear(args, view, plan, {.programmatic = programmatic}, stream_));
      }
      ASSERT_CUDA(cudaStreamSynchronize(stream_));
    };
    for (const int32_t splits : {1, 2}) {
      ASSERT_NO_FATAL_FAILURE(run(false, splits));
      const std::vector<unsigned char> want = buffers[(kLayers - 1) % 2].Read();
      for (int i = 0; i < 50; ++i) {
        buffers[0].Poison();
        buffers[1].Poison();
        ASSERT_NO_FATAL_FAILURE(run(true, splits));
        ASSERT_EQ(buffers[(kLayers - 1) % 2].Read(), want) << "rows " << rows << ", round " << i;
      }
    }
  }
}

TEST_F(CudaLinearWideTest, ReplaysInAGraph) {
  LinearProblem problem({.rows = 40, .n = 1000, .k = 2048, .bias = true}, 77);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  ASSERT_CUDA(Wide(problem, true));
  ASSERT_CUDA(Wide(problem, true));
  ASSERT_CUDA(cudaStreamEndCapture(stream_, &graph));
  ASSERT_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  ASSERT_NO_FATAL_FAILURE(
      ExpectRightAndStable(problem, [&] { ASSERT_CUDA(cudaGraphLaunch(replay, stream_)); }));
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

TEST_F(CudaLinearWideTest, RefusesWhatItCannotDo) {
  LinearProblem odd_depth({.rows = 32, .n = 64, .k = 60}, 1);
  EXPECT_EQ(Wide(odd_depth, false), cudaErrorInvalidValue);
  LinearProblem odd_width({.rows = 32, .n = 60, .k = 64}, 1);
  EXPECT_EQ(Wide(odd_width, false), cudaErrorInvalidValue);
  LinearProblem mixed({.rows = 32, .n = 64, .k = 64, .w_dtype = DType::kF16}, 1);
  EXPECT_EQ(Wide(mixed, false), cudaErrorInvalidValue);
  LinearProblem many({.rows = kWideRowsMax + 1, .n = 64, .k = 64}, 1);
  EXPECT_EQ(Wide(many, false), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace fathom::kernels::cuda
