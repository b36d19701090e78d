// The linear kernels against sums in double precision, over many shapes and types, by every plan,
// repeated, captured and in programmatic chains. Skips without a GPU.

#include "kernels/cuda/cuda_linear_testing.h"
#include "kernels/cuda/library_linear.h"

namespace fathom::kernels::cuda {
namespace {

class CudaLinearTest : public LinearTest {
 protected:
  cudaError_t Skinny(LinearProblem& problem, const SkinnyPlan& plan, bool programmatic) {
    return LaunchSkinnyLinear(problem.args(), problem.weight(), plan, workspace_->data(),
                              workspace_->bytes(), {.programmatic = programmatic}, stream_);
  }
  cudaError_t Skinny(LinearProblem& problem, bool programmatic) {
    return LaunchSkinnyLinear(problem.args(), problem.weight(), workspace_->data(),
                              workspace_->bytes(), {.programmatic = programmatic}, stream_);
  }

  void ExpectWorkspaceClean() {
    std::vector<unsigned char> counters(kSkinnyCounterBytes);
    ASSERT_CUDA(
        cudaMemcpy(counters.data(), workspace_->data(), counters.size(), cudaMemcpyDeviceToHost));
    EXPECT_EQ(counters, std::vector<unsigned char>(kSkinnyCounterBytes, 0));
    workspace_->ExpectGuardsWhole();
  }
};

TEST_F(CudaLinearTest, SkinnyEveryRowCount) {
  const int32_t ns[] = {1, 7, 8, 33, 64, 100, 200, 513, 1024, 4099};
  const int32_t ks[] = {8, 64, 72, 136, 200, 512, 1000, 1032, 3584};
  uint32_t seed = 1;
  for (int32_t rows = 1; rows <= kSkinnyRowsMax; ++rows) {
    for (int i = 0; i < 4; ++i, ++seed) {
      const DType dtype = seed % 3 == 0 ? DType::kF16 : DType::kBF16;
      const DType outs[] = {dtype, DType::kF32, dtype, DType::kBF16};
      const LinearCase c = {.rows = rows,
                            .n = ns[seed * 7 % 10],
                            .k = ks[seed * 5 % 9],
                            .x_dtype = dtype,
                            .w_dtype = dtype,
                            .out_dtype = outs[i],
                            .bias = i % 2 == 1};
      SCOPED_TRACE(testing::Message() << c);
      LinearProblem problem(c, seed);
      ASSERT_NO_FATAL_FAILURE(
          ExpectRightAndStable(problem, [&] { ASSERT_CUDA(Skinny(problem, i >= 2)); }));
      ASSERT_NO_FATAL_FAILURE(ExpectWorkspaceClean());
    }
  }
}

TEST_F(CudaLinearTest, SkinnyModelShapes) {
  const LinearCase cases[] = {
      {.rows = 1, .n = 4608, .k = 3584},  {.rows = 1, .n = 6144, .k = 4096, .bias = true},
      {.rows = 5, .n = 4096, .k = 4096},  {.rows = 3, .n = 1024, .k = 14336},
      {.rows = 12, .n = 2048, .k = 8192}, {.rows = 31, .n = 4096, .k = 2048},
      {.rows = 64, .n = 4096, .k = 1024}};
  uint32_t seed = 100;
  for (const LinearCase& c : cases) {
    SCOPED_TRACE(testing::Message() << c);
    LinearProblem problem(c, ++seed);
    ASSERT_NO_FATAL_FAILURE(
        ExpectRightAndStable(problem, [&] { ASSERT_CUDA(Skinny(problem, true)); }));
    ASSERT_NO_FATAL_FAILURE(ExpectWorkspaceClean());
  }
}

TEST_F(CudaLinearTest, SkinnyEveryPlan) {
  uint32_t seed = 1000;
  int plans = 0;
  for (const int32_t rows : {1, 8, 11, 16, 30, 64}) {
    const LinearCase c = {.rows = rows, .n = 777, .k = 1480, .bias = true};
    LinearProblem problem(c, ++seed);
    const SkinnyShape shape = SkinnyShapeOf(rows);
    for (int32_t tile_rows = 8; tile_rows <= shape.MaxTileRows(); tile_rows += 8) {
      for (const bool split : {false, true}) {
        for (const int32_t boxes : {1, 2, 4, 6}) {
          for (const int32_t stages : {1, 2, 5}) {
            SkinnyPlan plan = {
                .tile_rows = tile_rows, .boxes = boxes, .stages = stages, .split = split};
            plan = CompleteSkinnyPlan(plan, rows, c.n, c.k, 5 + plans % 128);
            if (!IsValidSkinnyPlan(plan, rows, c.n, c.k)) continue;
            ++plans;
            SCOPED_TRACE(testing::Message()
                         << c << ": tile rows " << tile_rows << ", boxes " << boxes << ", stages "
                         << stages << (split ? ", split over " : ", blocks ") << plan.blocks);
            problem.out().Poison();
            ASSERT_CUDA(Skinny(problem, plan, plans % 2 == 0));
            ASSERT_CUDA(cudaStreamSynchronize(stream_));
            ASSERT_NO_FATAL_FAILURE(problem.ExpectCorrect());
          }
        }
      }
    }
    ASSERT_NO_FATAL_FAILURE(ExpectWorkspaceClean());
  }
  EXPECT_GT(plans, 500);
}

// Each output is the next input, so a kernel that reads or writes too early shows. Many rounds, for
// a race need not show in one.
TEST_F(CudaLinearTest, ProgrammaticChainEqualsSerialOne) {
  constexpr int32_t kWidth = 1024;
  constexpr int kLayers = 24;
  for (const int32_t rows : {1, 16, 64}) {
    LinearProblem problem({.rows = rows, .n = kWidth, .k = kWidth}, 5);
    std::vector<float> weights(size_t{kWidth} * kWidth * kLayers);
    std::mt19937 random(6);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(kWidth)));
    for (float& w : weights) w = normal(random);
    const DeviceBuffer weight(Encode(weights, DType::kBF16));
    const size_t bytes = problem.out().bytes();
    DeviceBuffer buffers[2] = {DeviceBuffer(bytes), DeviceBuffer(bytes)};
    const auto run = [&](bool programmatic, bool split) {
      SkinnyPlan plan = {.tile_rows = split ? 64 : 8, .split = split};
      plan = CompleteSkinnyPlan(plan, rows, kWidth, kWidth, 132);
      for (int layer = 0; layer < kLayers; ++layer) {
        LinearArgs args = problem.args();
        if (layer > 0) args.x = buffers[(layer + 1) % 2].data();
        args.out = buffers[layer % 2].data();
        WeightView view = problem.weight();
        view.data = static_cast<char*>(weight.data()) + size_t{kWidth} * kWidth * 2 * layer;
        ASSERT_CUDA(LaunchSkinnyLinear(args, view, plan, workspace_->data(), workspace_->bytes(),
                                       {.programmatic = programmatic}, stream_));
      }
      ASSERT_CUDA(cudaStreamSynchronize(stream_));
    };
    for (const bool split : {false, true}) {
      ASSERT_NO_FATAL_FAILURE(run(false, split));
      const std::vector<unsigned char> want = buffers[(kLayers - 1) % 2].Read();
      for (int i = 0; i < 50; ++i) {
        buffers[0].Poison();
        buffers[1].Poison();
        ASSERT_NO_FATAL_FAILURE(run(true, split));
        ASSERT_EQ(buffers[(kLayers - 1) % 2].Read(), want) << "rows " << rows << ", round " << i;
      }
    }
    ASSERT_NO_FATAL_FAILURE(ExpectWorkspaceClean());
  }
}

TEST_F(CudaLinearTest, SkinnyReplaysInAGraph) {
  LinearProblem problem({.rows = 4, .n = 1000, .k = 2048, .bias = true}, 77);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  ASSERT_CUDA(Skinny(problem, true));
  ASSERT_CUDA(Skinny(problem, true));
  ASSERT_CUDA(cudaStreamEndCapture(stream_, &graph));
  ASSERT_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  ASSERT_NO_FATAL_FAILURE(
      ExpectRightAndStable(problem, [&] { ASSERT_CUDA(cudaGraphLaunch(replay, stream_)); }));
  ASSERT_NO_FATAL_FAILURE(ExpectWorkspaceClean());
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

TEST_F(CudaLinearTest, SkinnyRefusesWhatItCannotDo) {
  LinearProblem odd({.rows = 1, .n = 64, .k = 63}, 1);
  EXPECT_EQ(Skinny(odd, false), cudaErrorInvalidValue);
  LinearProblem mixed({.rows = 1, .n = 64, .k = 64, .w_dtype = DType::kF16}, 1);
  EXPECT_EQ(Skinny(mixed, false), cudaErrorInvalidValue);
  LinearProblem many({.rows = 65, .n = 64, .k = 64}, 1);
  EXPECT_EQ(Skinny(many, false), cudaErrorInvalidValue);
  LinearProblem good({.rows = 1, .n = 64, .k = 640}, 1);
  const SkinnyPlan plan =
      CompleteSkinnyPlan({.tile_rows = 64, .boxes = 2, .split = true}, 1, 64, 640, 132);
  EXPECT_EQ(LaunchSkinnyLinear(good.args(), good.weight(), plan, nullptr, 0, {}, stream_),
            cudaErrorInvalidValue);
}

TEST_F(CudaLinearTest, PlainEveryType) {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16};
  const LinearCase shapes[] = {{.rows = 1, .n = 1, .k = 1},     {.rows = 1, .n = 65, .k = 33},
                               {.rows = 33, .n = 64, .k = 31},  {.rows = 5, .n = 130, .k = 96},
                               {.rows = 70, .n = 97, .k = 129}, {.rows = 2, .n = 63, .k = 4099}};
  uint32_t seed = 300;
  for (const DType x : types) {
    for (const DType w : types) {
      for (const DType out : types) {
        for (LinearCase c : shapes) {
          c.x_dtype = x;
          c.w_dtype = w;
          c.out_dtype = out;
          c.bias = ++seed % 2 == 0;
          SCOPED_TRACE(testing::Message() << c);
          LinearProblem problem(c, seed);
          ASSERT_NO_FATAL_FAILURE(ExpectRightAndStable(problem, [&] {
            ASSERT_CUDA(LaunchPlainLinear(problem.args(), problem.weight(), stream_));
          }));
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, LibraryManyRows) {
  DeviceBuffer workspace(LibraryLinear::kWorkspaceBytes);
  LibraryLinear library;
  ASSERT_EQ(library.Init(workspace.data(), workspace.bytes()), CUBLAS_STATUS_SUCCESS);
  const LinearCase shapes[] = {
      {.rows = 65, .n = 128, .k = 256},  {.rows = 300, .n = 264, .k = 136},
      {.rows = 100, .n = 64, .k = 64},   {.rows = 129, .n = 512, .k = 1024},
      {.rows = 1, .n = 1024, .k = 512},  {.rows = 257, .n = 96, .k = 200},
      {.rows = 77, .n = 1000, .k = 512}, {.rows = 76, .n = 1000, .k = 512}};
  uint32_t seed = 500;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const DType out : {dtype, DType::kF32}) {
      for (const bool bias : {false, true}) {
        for (LinearCase c : shapes) {
          c.x_dtype = c.w_dtype = dtype;
          c.out_dtype = out;
          c.bias = bias;
          SCOPED_TRACE(testing::Message() << c);
          LinearProblem problem(c, ++seed);
          const cublasStatus_t status = library.Launch(problem.args(), problem.weight(), stream_);
          ASSERT_EQ(status, CUBLAS_STATUS_SUCCESS) << LibraryLinear::Describe(status);
          ASSERT_CUDA(cudaStreamSynchronize(stream_));
          ASSERT_NO_FATAL_FAILURE(problem.ExpectCorrect());
        }
      }
    }
  }
}

TEST_F(CudaLinearTest, LibraryReplaysInAGraph) {
  DeviceBuffer workspace(LibraryLinear::kWorkspaceBytes);
  LibraryLinear library;
  ASSERT_EQ(library.Init(workspace.data(), workspace.bytes()), CUBLAS_STATUS_SUCCESS);
  LinearProblem problem({.rows = 96, .n = 256, .k = 512, .bias = true}, 9);
  // The first call of a shape may load kernels, which a capture does not allow.
  ASSERT_EQ(library.Launch(problem.args(), problem.weight(), stream_), CUBLAS_STATUS_SUCCESS);
  ASSERT_CUDA(cudaStreamSynchronize(stream_));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  ASSERT_EQ(library.Launch(problem.args(), problem.weight(), stream_), CUBLAS_STATUS_SUCCESS);
  ASSERT_CUDA(cudaStreamEndCapture(stream_, &graph));
  ASSERT_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  problem.out().Poison();
  ASSERT_NO_FATAL_FAILURE(
      ExpectRightAndStable(problem, [&] { ASSERT_CUDA(cudaGraphLaunch(replay, stream_)); }));
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace fathom::kernels::cuda
