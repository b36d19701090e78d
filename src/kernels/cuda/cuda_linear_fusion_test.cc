// Products that take the norms, SiLU and the residual along, by both kernels that do, against the
// separate steps in double precision. Skips without a GPU.

#include <numeric>

#include "kernels/cuda/cuda_linear_testing.h"

namespace fathom::kernels::cuda {
namespace {

constexpr DType kType = DType::kBF16;
constexpr float kEps = 1e-5F;

struct Shape {
  int32_t rows, n, k;
};

std::vector<float> Uniform(size_t count, float low, float high, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(count);
  for (float& v : values) v = uniform(random);
  return values;
}

std::vector<float> Stored(const std::vector<float>& values) {
  return Decode(Encode(values, kType), kType);
}

float Rounded(float v) { return Stored({v}).front(); }

class CudaLinearFusionTest : public LinearTest, public testing::WithParamInterface<LinearKernel> {
 protected:
  bool IsWide() const { return GetParam() == LinearKernel::kWide; }
  // What the kernel has of `shapes`: rows to pair up and to add to a residual come by sixteens to
  // the wide one.
  std::vector<Shape> Shapes(bool by_16) const;
  cudaError_t Start(const LinearArgs& args, const WeightView& weight, bool programmatic) {
    const LaunchOptions options = {.programmatic = programmatic};
    return IsWide() ? LaunchWideLinear(args, weight, options, stream_)
                    : LaunchSkinnyLinear(args, weight, workspace_->data(), workspace_->bytes(),
                                         options, stream_);
  }
  void Launch(const LinearArgs& args, const WeightView& weight) {
    ASSERT_CUDA(Start(args, weight, true));
    ASSERT_CUDA(cudaStreamSynchronize(stream_));
  }
};
INSTANTIATE_TEST_SUITE_P(Kernels, CudaLinearFusionTest,
                         testing::Values(LinearKernel::kSkinny, LinearKernel::kWide),
                         [](const testing::TestParamInfo<LinearKernel>& kernel) {
                           return kernel.param == LinearKernel::kWide ? "Wide" : "Skinny";
                         });

// One product's operands on both sides.
struct Operands {
  Operands(const Shape& shape, uint32_t seed)
      : x(Stored(Uniform(size_t(shape.rows) * shape.k, -1.7F, 1.7F, seed))),
        w(Stored(Uniform(size_t(shape.n) * shape.k, -0.06F, 0.06F, seed + 1))),
        bias(Uniform(shape.n, -1, 1, seed + 2)),
        x_device(Encode(x, kType)),
        w_device(Encode(w, kType)),
        bias_device(Encode(bias, DType::kF32)),
        shape(shape) {}

  LinearArgs Args(void* out, bool with_bias) const {
    LinearArgs args;
    args.out = out;
    args.x = x_device.data();
    args.bias = with_bias ? static_cast<const float*>(bias_device.data()) : nullptr;
    args.rows = shape.rows;
    args.dtype = args.out_dtype = kType;
    return args;
  }
  WeightView Weight() const { return {w_device.data(), shape.n, shape.k, kType}; }
  double Product(int32_t row, int32_t column) const {
    const float* a = x.data() + size_t(row) * shape.k;
    const float* b = w.data() + size_t(column) * shape.k;
    double sums[4] = {};
    for (int32_t i = 0; i < shape.k; ++i) sums[i % 4] += double{a[i]} * b[i];
    return sums[0] + sums[1] + sums[2] + sums[3];
  }

  std::vector<float> x, w, bias;
  DeviceBuffer x_device, w_device, bias_device;
  Shape shape;
};

// Parts of sums of squares, and the factor each row's make.
struct Squares {
  Squares(const Shape& shape, int32_t parts, uint32_t seed)
      : parts(parts),
        pitch(parts + 3),
        values(Uniform(size_t(shape.rows) * pitch, 0.5F, 40, seed)),
        device(Encode(values, DType::kF32)) {
    for (int32_t row = 0; row < shape.rows; ++row) {
      const float* begin = values.data() + size_t(row) * pitch;
      const double sum = std::accumulate(begin, begin + parts, 0.0);
      factors.push_back(1 / std::sqrt(sum / shape.k + double{kEps}));
    }
  }
  void Put(LinearFusion& fusion) const {
    fusion.square_sums = static_cast<const float*>(device.data());
    fusion.square_parts = parts;
    fusion.square_pitch = pitch;
    fusion.norm_eps = kEps;
  }

  int32_t parts, pitch;
  std::vector<float> values;
  std::vector<double> factors;
  DeviceBuffer device;
};

constexpr Shape kShapes[] = {
    {1, 64, 64},   {1, 4096, 512},  {2, 96, 1000},   {3, 4608, 584},
    {7, 200, 136}, {8, 1024, 2048}, {9, 1024, 1032}, {13, 4096, 256},
    {16, 80, 64},  {16, 512, 776},  {12, 4096, 512}, {6, 48, 8},
};

constexpr Shape kManyRows[] = {
    {17, 4096, 520}, {24, 96, 1000}, {31, 4608, 584},  {32, 1024, 2048}, {33, 1040, 1032},
    {40, 176, 64},   {47, 16, 136},  {64, 4096, 1024}, {61, 6144, 264},  {64, 560, 4104},
};

std::vector<Shape> CudaLinearFusionTest::Shapes(bool by_16) const {
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  if (!IsWide()) return shapes;
  shapes.insert(shapes.end(), std::begin(kManyRows), std::end(kManyRows));
  std::erase_if(shapes, [&](const Shape& shape) { return by_16 && shape.n % 16 != 0; });
  return shapes;
}

TEST_P(CudaLinearFusionTest, DividesByTheRootMeanSquare) {
  uint32_t seed = 1;
  for (const Shape& shape : Shapes(false)) {
    for (const bool bias : {false, true}) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.n << " x " << shape.k);
      const Operands operands(shape, seed += 10);
      const Squares squares(shape, 1 + static_cast<int32_t>(seed % 150), seed + 5);
      const DeviceBuffer out(size_t(shape.rows) * shape.n * sizeof(float));
      LinearArgs args = operands.Args(out.data(), bias);
      args.out_dtype = DType::kF32;
      squares.Put(args.fusion);
      ASSERT_NO_FATAL_FAILURE(Launch(args, operands.Weight()));
      out.ExpectGuardsWhole();
      const std::vector<float> got = Decode(out.Read(), DType::kF32);
      for (int32_t row = 0; row < shape.rows; ++row) {
        for (int32_t i = 0; i < shape.n; ++i) {
          const double want =
              operands.Product(row, i) * squares.factors[row] + (bias ? operands.bias[i] : 0.0);
          ASSERT_NEAR(got[size_t(row) * shape.n + i], want, 2e-4 * (1 + std::abs(want)))
              << row << ", " << i;
        }
      }
    }
  }
}

TEST_P(CudaLinearFusionTest, GatesByPairsOfRows) {
  uint32_t seed = 1000;
  for (Shape shape : Shapes(true)) {
    for (const int32_t odd : {0, IsWide() ? 16 : 2}) {
      shape.n += odd;  // halves of a length that no tile divides
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.n << " x " << shape.k);
      const Operands operands(shape, seed += 10);
      const Squares squares(shape, 40, seed + 5);
      const int32_t half = shape.n / 2;
      const DeviceBuffer out(size_t(shape.rows) * half * SizeOf(kType));
      LinearArgs args = operands.Args(out.data(), true);
      squares.Put(args.fusion);
      args.fusion.gated = true;
      ASSERT_NO_FATAL_FAILURE(Launch(args, operands.Weight()));
      out.ExpectGuardsWhole();
      const std::vector<unsigned char> first = out.Read();
      const std::vector<float> got = Decode(first, kType);
      for (int32_t row = 0; row < shape.rows; ++row) {
        for (int32_t i = 0; i < half; ++i) {
          const double gate = operands.Product(row, i) * squares.factors[row] + operands.bias[i];
          const double up =
              operands.Product(row, i + half) * squares.factors[row] + operands.bias[i + half];
          const double want = gate / (1 + std::exp(-gate)) * up;
          // Three roundings to 8 bits, of factors whose own size counts.
          const double unit = std::abs(gate) * std::abs(up) + std::abs(want);
          ASSERT_NEAR(got[size_t(row) * half + i], want, 0.01 * unit + 1e-3) << row << ", " << i;
        }
      }
      ASSERT_NO_FATAL_FAILURE(Launch(args, operands.Weight()));
      ASSERT_EQ(out.Read(), first);
    }
  }
}

TEST_P(CudaLinearFusionTest, AddsToTheResidualAndLeavesItsSquares) {
  uint32_t seed = 2000;
  for (const Shape& shape : Shapes(true)) {
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.n << " x " << shape.k);
    const Operands operands(shape, seed += 10);
    const size_t count = size_t(shape.rows) * shape.n;
    const std::vector<float> old = Stored(Uniform(count, -3, 3, seed + 4));
    const std::vector<float> norm = Uniform(shape.n, 0.2F, 2, seed + 5);
    const DeviceBuffer norm_device(Encode(norm, DType::kF32));
    const int32_t parts = SquareParts(shape.n);
    ASSERT_LE(parts, (shape.n + 7) / 8);
    const int32_t pitch = parts + 5;
    std::vector<unsigned char> first[3];
    for (int round = 0; round < 2; ++round) {
      const DeviceBuffer residual(Encode(old, kType));
      const DeviceBuffer out(count * SizeOf(kType));
      const DeviceBuffer squares(size_t(shape.rows) * pitch * sizeof(float));
      LinearArgs args = operands.Args(out.data(), true);
      args.fusion.residual = residual.data();
      args.fusion.norm_weight = static_cast<const float*>(norm_device.data());
      args.fusion.residual_squares = static_cast<float*>(squares.data());
      args.fusion.square_pitch = pitch;
      ASSERT_NO_FATAL_FAILURE(Launch(args, operands.Weight()));
      for (const DeviceBuffer* buffer : {&residual, &out, &squares}) buffer->ExpectGuardsWhole();
      if (round == 1) {
        EXPECT_EQ(residual.Read(), first[0]);
        EXPECT_EQ(out.Read(), first[1]);
        EXPECT_EQ(squares.Read(), first[2]);
        continue;
      }
      first[0] = residual.Read();
      first[1] = out.Read();
      first[2] = squares.Read();
      const std::vector<float> added = Decode(first[0], kType);
      const std::vector<float> scaled = Decode(first[1], kType);
      const std::vector<float> sums = Decode(first[2], DType::kF32);
      for (int32_t row = 0; row < shape.rows; ++row) {
        double total = 0;
        for (int32_t i = 0; i < shape.n; ++i) {
          const size_t at = size_t(row) * shape.n + i;
          const double product = operands.Product(row, i) + operands.bias[i];
          ASSERT_NEAR(added[at], old[at] + product,
                      0.01 * (std::abs(product) + std::abs(old[at])) + 1e-3)
              << row << ", " << i;
          ASSERT_EQ(scaled[at], Rounded(added[at] * norm[i])) << row << ", " << i;
          total += double{added[at]} * added[at];
        }
        const float* begin = sums.data() + size_t(row) * pitch;
        ASSERT_NEAR(std::accumulate(begin, begin + parts, 0.0), total, 1e-4 * total) << row;
        for (int32_t i = parts; i < pitch; ++i) ASSERT_TRUE(std::isnan(begin[i])) << row;
      }
    }
  }
}

// The residual's product feeds the norm's, which may begin while the first one still runs.
TEST_P(CudaLinearFusionTest, AChainEqualsOneStepAfterTheOther) {
  for (const int32_t rows : {1, 8, 12, 16, 32, 64}) {
    if (rows > kSkinnyFusedRowsMax && !IsWide()) break;
    constexpr int32_t kHidden = 1024;
    constexpr int32_t kInner = 1536;
    const Operands down({rows, kHidden, kInner}, 31);
    const Operands gate_up({rows, 2 * kInner, kHidden}, 41);
    const std::vector<float> old = Stored(Uniform(size_t(rows) * kHidden, -3, 3, 51));
    const DeviceBuffer norm(Encode(Uniform(kHidden, 0.2F, 2, 52), DType::kF32));
    const int32_t parts = SquareParts(kHidden);
    DeviceBuffer residual(Encode(old, kType));
    DeviceBuffer normed(size_t(rows) * kHidden * 2);
    DeviceBuffer activated(size_t(rows) * kInner * 2);
    DeviceBuffer squares(size_t(rows) * parts * sizeof(float));
    const auto run = [&](bool programmatic) {
      const std::vector<unsigned char> start = Encode(old, kType);
      ASSERT_CUDA(cudaMemcpy(residual.data(), start.data(), start.size(), cudaMemcpyHostToDevice));
      ASSERT_CUDA(cudaMemcpy(activated.data(), down.x_device.data(), activated.bytes(),
                             cudaMemcpyDeviceToDevice));
      normed.Poison();
      for (int layer = 0; layer < 12; ++layer) {
        LinearArgs add = down.Args(normed.data(), false);
        add.x = activated.data();
        add.fusion.residual = residual.data();
        add.fusion.norm_weight = static_cast<const float*>(norm.data());
        add.fusion.residual_squares = static_cast<float*>(squares.data());
        add.fusion.square_pitch = parts;
        LinearArgs gate = gate_up.Args(activated.data(), false);
        gate.x = normed.data();
        gate.fusion = {.square_sums = static_cast<const float*>(squares.data()),
                       .square_parts = parts,
                       .norm_eps = kEps,
                       .gated = true,
                       .square_pitch = parts};
        for (const auto& [args, weight] :
             {std::pair{add, down.Weight()}, std::pair{gate, gate_up.Weight()}}) {
          ASSERT_CUDA(Start(args, weight, programmatic));
        }
      }
      ASSERT_CUDA(cudaStreamSynchronize(stream_));
    };
    ASSERT_NO_FATAL_FAILURE(run(false));
    const std::vector<unsigned char> want[] = {residual.Read(), activated.Read()};
    for (int i = 0; i < 30; ++i) {
      ASSERT_NO_FATAL_FAILURE(run(true));
      ASSERT_EQ(residual.Read(), want[0]) << rows << " rows, round " << i;
      ASSERT_EQ(activated.Read(), want[1]) << rows << " rows, round " << i;
    }
  }
}

TEST_P(CudaLinearFusionTest, RefusesWhatItCannotDo) {
  if (IsWide()) {
    const Operands uneven({4, 104, 640}, 3);
    const DeviceBuffer sums(size_t{4} * 104 * sizeof(float));
    LinearArgs args = uneven.Args(sums.data(), false);
    args.fusion.gated = true;
    EXPECT_EQ(Start(args, uneven.Weight(), false), cudaErrorInvalidValue);
    const Operands even({4, 96, 640}, 3);
    args = even.Args(sums.data(), false);
    args.fusion.residual = sums.data();
    EXPECT_EQ(Start(args, even.Weight(), false), cudaErrorInvalidValue) << "squares go nowhere";
    args.fusion = {.gated = true};
    args.out_dtype = DType::kF32;
    EXPECT_EQ(Start(args, even.Weight(), false), cudaErrorInvalidValue);
    return;
  }
  const Operands operands({1, 96, 640}, 3);
  const DeviceBuffer out(96 * sizeof(float));
  const auto launch = [&](LinearArgs args, SkinnyPlan plan) {
    plan = CompleteSkinnyPlan(plan, 1, 96, 640, 132);
    return LaunchSkinnyLinear(args, operands.Weight(), plan, workspace_->data(),
                              workspace_->bytes(), {}, stream_);
  };
  LinearArgs gated = operands.Args(out.data(), false);
  gated.fusion.gated = true;
  EXPECT_EQ(launch(gated, {.tile_rows = 16, .boxes = 2, .split = true}), cudaErrorInvalidValue);
  EXPECT_EQ(launch(gated, {.tile_rows = 24}), cudaErrorInvalidValue);
  gated.out_dtype = DType::kF32;
  EXPECT_EQ(launch(gated, {.tile_rows = 16}), cudaErrorInvalidValue);
  const Operands many({17, 96, 640}, 3);
  const DeviceBuffer wide(size_t{17} * 96 * sizeof(float));
  LinearArgs too_many = many.Args(wide.data(), false);
  too_many.fusion.gated = true;
  EXPECT_EQ(LaunchSkinnyLinear(too_many, many.Weight(), workspace_->data(), workspace_->bytes(), {},
                               stream_),
            cudaErrorInvalidValue);
  LinearArgs adding = operands.Args(out.data(), false);
  adding.fusion.residual = out.data();
  EXPECT_EQ(launch(adding, {.tile_rows = 16}), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace fathom::kernels::cuda
