// Every operation of the fast backend against the reference, over many shapes, types and
// instruction sets. Outputs lie between guard bytes and start poisoned; where the reference is inf
// or NaN the fast backend must be too. Attention has a file of its own.

#include "kernels/cpu/op_parity_testing.h"

namespace fathom::kernels::cpu {
namespace {

TEST_P(OpParityTest, RmsNorm) {
  for (const int32_t dim : {1, 2, 7, 16, 31, 64, 96, 256, 1000, 4096}) {
    for (const int32_t rows : {1, 3, 40}) {
      for (const bool with_residual : {false, true}) {
        SCOPED_TRACE(testing::Message() << rows << "x" << dim << " residual " << with_residual);
        const size_t count = static_cast<size_t>(rows) * dim;
        Tensor x = Random(count);
        Tensor residual = Random(count);
        Tensor residual_ref = residual;
        Tensor weight = Random(dim, 1, DType::kF32);
        Tensor out = Poison(count);
        Tensor out_ref = Poison(count);
        RmsNormArgs args;
        args.x = x.data();
        args.weight = static_cast<float*>(weight.data());
        args.rows = rows;
        args.dim = dim;
        args.eps = 1e-6F;
        args.dtype = dtype();
        args.out = out.data();
        args.residual = with_residual ? residual.data() : nullptr;
        ASSERT_TRUE(fast_->RmsNorm(args).ok());
        args.out = out_ref.data();
        args.residual = with_residual ? residual_ref.data() : nullptr;
        ASSERT_TRUE(ref_->RmsNorm(args).ok());
        ExpectSame(out, out_ref, dim, tolerance());
        ExpectSame(residual, residual_ref, dim, 0);
      }
    }
  }
}

TEST_P(OpParityTest, RmsNormKeepsInfAndNan) {
  Tensor x = Random(3 * 20);
  x.Set(5, std::numeric_limits<float>::infinity());
  x.Set(27, std::numeric_limits<float>::quiet_NaN());
  Tensor weight = Random(20, 1, DType::kF32);
  Tensor out = Poison(60);
  Tensor out_ref = Poison(60);
  RmsNormArgs args;
  args.x = x.data();
  args.weight = static_cast<float*>(weight.data());
  args.rows = 3;
  args.dim = 20;
  args.dtype = dtype();
  args.out = out.data();
  ASSERT_TRUE(fast_->RmsNorm(args).ok());
  args.out = out_ref.data();
  ASSERT_TRUE(ref_->RmsNorm(args).ok());
  ExpectSame(out, out_ref, 20, tolerance());
}

TEST_P(OpParityTest, SiluMul) {
  for (const int32_t dim : {1, 9, 64, 73, 768}) {
    for (const int32_t rows : {1, 50}) {
      SCOPED_TRACE(testing::Message() << rows << "x" << dim);
      Tensor gate_up = Random(static_cast<size_t>(rows) * 2 * dim, 8);
      gate_up.Set(0, std::numeric_limits<float>::infinity());
      if (dim > 2) gate_up.Set(1, std::numeric_limits<float>::quiet_NaN());
      if (dim > 2) gate_up.Set(2, -1000);
      Tensor out = Poison(static_cast<size_t>(rows) * dim);
      Tensor out_ref = out;
      SiluMulArgs args;
      args.gate_up = gate_up.data();
      args.rows = rows;
      args.dim = dim;
      args.dtype = dtype();
      args.out = out.data();
      ASSERT_TRUE(fast_->SiluMul(args).ok());
      args.out = out_ref.data();
      ASSERT_TRUE(ref_->SiluMul(args).ok());
      ExpectSame(out, out_ref, dim, tolerance());
    }
  }
}

TEST_P(OpParityTest, Embedding) {
  for (const DType table_dtype : {DType::kF32, DType::kBF16}) {
    Tensor table = Random(10 * 33, 1, table_dtype);
    const std::vector<int32_t> ids = {9, 0, -1, 4, -1};
    const std::vector<int32_t> slots = {0, 0, 1, 1, 2};
    const std::vector<int32_t> slot_tokens = {1, 7, 1000};  // 1000: forced into the table
    Tensor out = Poison(5 * 33);
    Tensor out_ref = out;
    EmbeddingArgs args;
    args.table = table.data();
    args.token_ids = ids.data();
    args.token_slots = slots.data();
    args.slot_tokens = slot_tokens.data();
    args.num_tokens = 5;
    args.hidden = 33;
    args.vocab = 10;
    args.dtype = dtype();
    args.table_dtype = table_dtype;
    args.out = out.data();
    ASSERT_TRUE(fast_->Embedding(args).ok());
    args.out = out_ref.data();
    ASSERT_TRUE(ref_->Embedding(args).ok());
    ExpectSame(out, out_ref, 33, 0);
  }
}

TEST_P(OpParityTest, Linear) {
  struct Shape {
    int32_t rows, n, k;
  };
  const Shape shapes[] = {{1, 1, 1},       {1, 64, 64},   {1, 65, 33},     {2, 130, 96},
                          {3, 63, 17},     {4, 200, 128}, {5, 64, 1},      {6, 48, 31},
                          {7, 256, 64},    {13, 100, 40}, {48, 128, 50},   {49, 97, 129},
                          {64, 64, 64},    {130, 70, 96}, {200, 192, 256}, {200, 128, 2048},
                          {260, 300, 2064}};
  for (const Shape& shape : shapes) {
    for (const DType weight_dtype : {DType::kF32, DType::kBF16}) {
      for (const DType out_dtype : {DType::kF32, dtype()}) {
        for (const bool with_bias : {false, true}) {
          SCOPED_TRACE(testing::Message() << shape.rows << "x" << shape.n << "x" << shape.k
                                          << " weight " << Name(weight_dtype) << " out "
                                          << Name(out_dtype) << " bias " << with_bias);
          Tensor x = Random(static_cast<size_t>(shape.rows) * shape.k);
          Tensor weight = Random(static_cast<size_t>(shape.n) * shape.k,
                                 1 / std::sqrt(static_cast<float>(shape.k)), weight_dtype);
          Tensor bias = Random(shape.n, 1, DType::kF32);
          Tensor out = Poison(static_cast<size_t>(shape.rows) * shape.n, out_dtype);
          Tensor out_ref = out;
          // Two parts, stacked.
          const int32_t first = shape.n / 2;
          std::vector<TensorView> parts;
          if (first > 0) parts.push_back({weight.data(), weight_dtype, 2, {first, shape.k}});
          parts.push_back({static_cast<char*>(weight.data()) +
                               static_cast<size_t>(first) * shape.k * SizeOf(weight_dtype),
                           weight_dtype,
                           2,
                           {shape.n - first, shape.k}});
          auto packed = fast_->PackMatrix(parts, weight_dtype);
          auto packed_ref = ref_->PackMatrix(parts, weight_dtype);
          ASSERT_TRUE(packed.ok() && packed_ref.ok());
          LinearArgs args;
          args.x = x.data();
          args.bias = with_bias ? static_cast<float*>(bias.data()) : nullptr;
          args.rows = shape.rows;
          args.dtype = dtype();
          args.out_dtype = out_dtype;
          args.out = out.data();
          ASSERT_TRUE(fast_->Linear(args, **packed).ok());
          args.out = out_ref.data();
          ASSERT_TRUE(ref_->Linear(args, **packed_ref).ok());
          ExpectSame(out, out_ref, shape.n, std::max(OpTolerance(out_dtype), 2e-6));
        }
      }
    }
  }
}

TEST_P(OpParityTest, LinearOfEveryNumberOfRows) {
  constexpr int32_t kN = 150;
  for (const int32_t k : {32, 96, 107}) {
    Tensor weight = Random(static_cast<size_t>(kN) * k, 0.1F);
    Tensor bias = Random(kN, 1, DType::kF32);
    const TensorView part = {weight.data(), dtype(), 2, {kN, k}};
    auto packed = fast_->PackMatrix({&part, 1}, dtype());
    auto packed_ref = ref_->PackMatrix({&part, 1}, dtype());
    for (int32_t rows = 1; rows <= 100; ++rows) {
      SCOPED_TRACE(testing::Message() << rows << "x" << kN << "x" << k);
      Tensor x = Random(static_cast<size_t>(rows) * k);
      Tensor out = Poison(static_cast<size_t>(rows) * kN);
      Tensor out_ref = out;
      LinearArgs args;
      args.x = x.data();
      args.bias = static_cast<float*>(bias.data());
      args.rows = rows;
      args.dtype = dtype();
      args.out_dtype = dtype();
      args.out = out.data();
      ASSERT_TRUE(fast_->Linear(args, **packed).ok());
      args.out = out_ref.data();
      ASSERT_TRUE(ref_->Linear(args, **packed_ref).ok());
      ExpectSame(out, out_ref, kN, tolerance());
    }
  }
}

TEST_P(OpParityTest, LinearKeepsNanInItsRow) {
  for (const int32_t k : {64, 75}) {
    for (const int32_t rows : {5, 20, 60}) {
      SCOPED_TRACE(testing::Message() << rows << "x70x" << k);
      Tensor x = Random(static_cast<size_t>(rows) * k);
      x.Set(static_cast<size_t>(k) * 3, std::numeric_limits<float>::quiet_NaN());
      x.Set(static_cast<size_t>(k) * 3 + 5, std::numeric_limits<float>::infinity());
      Tensor weight = Random(static_cast<size_t>(70) * k, 0.1F);
      const TensorView part = {weight.data(), dtype(), 2, {70, k}};
      auto packed = fast_->PackMatrix({&part, 1}, dtype());
      Tensor out = Poison(static_cast<size_t>(rows) * 70);
      LinearArgs args;
      args.x = x.data();
      args.rows = rows;
      args.dtype = dtype();
      args.out_dtype = dtype();
      args.out = out.data();
      ASSERT_TRUE(fast_->Linear(args, **packed).ok());
      for (size_t i = 0; i < out.count(); ++i) {
        ASSERT_EQ(std::isnan(out.At(i)), i / 70 == 3) << i;
      }
    }
  }
}

TEST_P(OpParityTest, LinearSumsARowAlikeWhateverTheOthers) {
  constexpr int32_t kRows = 150;
  constexpr int32_t kN = 130;
  const auto invariant = CreateFastBackend({.threads = 2, .batch_invariant = true}, isa());
  for (const int32_t cols : {96, 107}) {
    Tensor x = Random(static_cast<size_t>(kRows) * cols);
    Tensor weight = Random(static_cast<size_t>(kN) * cols, 0.1F);
    const TensorView part = {weight.data(), dtype(), 2, {kN, cols}};
    auto packed = invariant->PackMatrix({&part, 1}, dtype());
    Tensor all = Poison(kRows * kN, DType::kF32);
    LinearArgs args;
    args.x = x.data();
    args.rows = kRows;
    args.dtype = dtype();
    args.out = all.data();
    ASSERT_TRUE(invariant->Linear(args, **packed).ok());
    for (int32_t first = 0; first < kRows;) {
      const int32_t most = random_() % 2 == 0 ? 9 : 60;
      const int32_t rows = std::min<int32_t>(1 + random_() % most, kRows - first);
      Tensor some = Poison(static_cast<size_t>(rows) * kN, DType::kF32);
      args.x = static_cast<char*>(x.data()) + static_cast<size_t>(first) * cols * SizeOf(dtype());
      args.rows = rows;
      args.out = some.data();
      ASSERT_TRUE(invariant->Linear(args, **packed).ok());
      ASSERT_EQ(std::memcmp(some.data(), static_cast<float*>(all.data()) + first * kN,
                            static_cast<size_t>(rows) * kN * sizeof(float)),
                0)
          << "rows " << first << " to " << first + rows << ", k " << cols;
      first += rows;
    }
  }
}

TEST_P(OpParityTest, GatherAndCastAndCopyMoveBytes) {
  Tensor x = Random(6 * 20);
  const std::vector<int32_t> rows = {5, 0, 5};
  Tensor out = Poison(3 * 20);
  GatherRowsArgs gather;
  gather.out = out.data();
  gather.x = x.data();
  gather.indices = rows.data();
  gather.rows = 3;
  gather.dim = 20;
  gather.dtype = dtype();
  ASSERT_TRUE(fast_->GatherRows(gather).ok());
  for (size_t i = 0; i < 60; ++i) ASSERT_EQ(out.At(i), x.At(rows[i / 20] * 20 + i % 20));

  Tensor wide = Random(21, 1, DType::kF32);
  Tensor cast = Poison(21);
  ASSERT_TRUE(fast_->Cast({cast.data(), static_cast<float*>(wide.data()), 21, dtype()}).ok());
  for (size_t i = 0; i < 21; ++i) ASSERT_NEAR(cast.At(i), wide.At(i), 0.02);
  cast.ExpectGuardsWhole();

  const std::vector<int32_t> from = {0, 2};
  const std::vector<int32_t> to = {1, 3};
  const auto block_bytes = static_cast<int64_t>(20 * SizeOf(dtype()));
  ASSERT_TRUE(fast_->CopyBlocks({x.data(), from.data(), to.data(), block_bytes, 2}).ok());
  for (size_t i = 0; i < 20; ++i) {
    ASSERT_EQ(x.At(20 + i), x.At(i));
    ASSERT_EQ(x.At(60 + i), x.At(40 + i));
  }
}

INSTANTIATE_TEST_SUITE_P(All, OpParityTest, AllTargets(), TargetName);

}  // namespace
}  // namespace fathom::kernels::cpu
