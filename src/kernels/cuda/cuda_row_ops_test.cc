// Every operation on rows on the GPU against the CPU's reference, over random shapes and all
// storage types. Inputs have NaN and inf at the ends of rows: they must come out where the
// reference has them and nowhere else. F16, which the reference does not store, is held against
// F32.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/ref_backend.h"
#include "kernels/cuda/cuda_testing.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/tolerance.h"

namespace fathom::kernels::cuda {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kAllTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

// Of what is smaller F16 keeps too few bits to be measured.
constexpr double kSmall = 1e-3;

// Rows of `row` elements; NaN and inf must lie alike.
void ExpectNear(const std::vector<float>& got, const std::vector<float>& want, size_t row,
                double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t begin = 0; begin < want.size(); begin += row) {
    double difference = 0;
    double highest = kSmall;
    for (size_t i = begin; i < begin + row; ++i) {
      ASSERT_EQ(std::isnan(got[i]), std::isnan(want[i]))
          << "row " << begin / row << ", element " << i - begin << ": " << got[i] << ", "
          << want[i];
      if (std::isnan(want[i])) continue;
      if (std::isinf(want[i])) {
        ASSERT_EQ(got[i], want[i]) << "row " << begin / row << ", element " << i - begin;
        continue;
      }
      difference = std::max(difference, std::abs(static_cast<double>(got[i]) - want[i]));
      highest = std::max(highest, std::abs(static_cast<double>(want[i])));
    }
    ASSERT_LE(difference / highest, tolerance) << "row " << begin / row;
  }
}

class CudaRowTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "there is no GPU";
  }
  int32_t Below(int32_t bound) {
    return std::uniform_int_distribution<int32_t>(0, bound - 1)(random_);
  }

  std::mt19937 random_{17};
  const std::unique_ptr<Backend> ref_ = cpu::CreateRefBackend();
};

class CudaRowOpsTest : public CudaRowTest, public testing::WithParamInterface<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  // What the reference stores for this type.
  DType ref_dtype() const { return dtype() == DType::kF16 ? DType::kF32 : dtype(); }
  // Two roundings follow each other; F16 is rounded on the way where its reference is not.
  double tolerance() const {
    if (dtype() == DType::kF32) return OpTolerance(dtype());
    return dtype() == DType::kF16 ? 4e-3 : 2 * OpTolerance(dtype());
  }

  std::vector<float> Random(size_t count, float scale, DType type) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(count);
    for (float& v : values) v = normal(random_);
    return Widened(Stored(values, type), type);
  }
  // The first rows end, or begin, with what no sum survives.
  std::vector<float> WithBadEnds(size_t rows, size_t row, float scale, DType type) {
    std::vector<float> values = Random(rows * row, scale, type);
    if (rows > 3) {
      values[row - 1] = kNan;
      values[2 * row - 1] = kInf;
      values[2 * row] = -kInf;
    }
    return values;
  }
  // A reference's result as the type under test stores it.
  std::vector<float> AsStored(const std::vector<char>& bytes) const {
    return Widened(Stored(Widened(bytes, ref_dtype()), dtype()), dtype());
  }
};

TEST_P(CudaRowOpsTest, Embedding) {
  constexpr int32_t kVocab = 50;
  const std::vector<int32_t> slot_tokens = {1, 49, 1000,
                                            -3};  // the last two: forced into the table
  for (const DType table_dtype : kAllTypes) {
    for (const int32_t hidden : {1, 33, 256, 1000}) {
      SCOPED_TRACE(testing::Message() << Name(table_dtype) << ", hidden " << hidden);
      const std::vector<float> table = WithBadEnds(kVocab, hidden, 1, table_dtype);
      std::vector<int32_t> ids = {0, 1, 2, 49, -1, -1, -1, -1};
      std::vector<int32_t> slots = {0, 0, 0, 0, 0, 1, 2, 3};
      for (int32_t i = 0; i < 20; ++i) {
        ids.push_back(Below(kVocab));
        slots.push_back(0);
      }
      const size_t count = ids.size() * hidden;
      std::vector<float> want(count);
      EmbeddingArgs args;
      args.out = want.data();
      args.table = table.data();
      args.token_ids = ids.data();
      args.token_slots = slots.data();
      args.slot_tokens = slot_tokens.data();
      args.num_tokens = static_cast<int32_t>(ids.size());
      args.hidden = hidden;
      args.vocab = kVocab;
      ASSERT_TRUE(ref_->Embedding(args).ok());

      const DeviceBytes device_table(Stored(table, table_dtype));
      const DeviceBytes device_ids(ids);
      const DeviceBytes device_slots(slots);
      const DeviceBytes device_tokens(slot_tokens);
      const DeviceBytes out(count * SizeOf(dtype()));
      args.out = out.data();
      args.table = device_table.data();
      args.token_ids = static_cast<const int32_t*>(device_ids.data());
      args.token_slots = static_cast<const int32_t*>(device_slots.data());
      args.slot_tokens = static_cast<const int32_t*>(device_tokens.data());
      args.dtype = dtype();
      args.table_dtype = table_dtype;
      ExpectCuda(LaunchEmbedding(args, nullptr, nullptr));
      ExpectNear(Widened(out.ToHost(), dtype()), Widened(Stored(want, dtype()), dtype()), hidden,
                 0);
    }
  }
}

TEST_P(CudaRowOpsTest, RmsNorm) {
  for (const int32_t dim : {1, 2, 7, 64, 96, 1000, 4096, 5120, 12288, 40000}) {
    for (const int32_t rows : {1, 5, 40}) {
      if (dim > 4096 && rows > 5) continue;
      for (const bool with_residual : {false, true}) {
        for (const bool in_place : {false, true}) {
          SCOPED_TRACE(testing::Message() << rows << "x" << dim << ", residual " << with_residual
                                          << ", in place " << in_place);
          const size_t count = static_cast<size_t>(rows) * dim;
          const std::vector<float> x = WithBadEnds(rows, dim, 1, dtype());
          const std::vector<float> residual = Random(count, 2, dtype());
          const std::vector<float> weight = Random(dim, 1, DType::kF32);
          std::vector<char> ref_x = Stored(x, ref_dtype());
          std::vector<char> ref_residual = Stored(residual, ref_dtype());
          std::vector<char> ref_out(ref_x.size());
          RmsNormArgs args;
          args.out = ref_out.data();
          args.x = ref_x.data();
          args.residual = with_residual ? ref_residual.data() : nullptr;
          args.weight = weight.data();
          args.rows = rows;
          args.dim = dim;
          args.eps = 1e-5F;
          args.dtype = ref_dtype();
          ASSERT_TRUE(ref_->RmsNorm(args).ok());

          const DeviceBytes device_x(Stored(x, dtype()));
          const DeviceBytes device_residual(Stored(residual, dtype()));
          const DeviceBytes device_weight(weight);
          const DeviceBytes out(count * SizeOf(dtype()));
          args.out = in_place ? device_x.data() : out.data();
          args.x = device_x.data();
          args.residual = with_residual ? device_residual.data() : nullptr;
          args.weight = static_cast<const float*>(device_weight.data());
          args.dtype = dtype();
          ExpectCuda(LaunchRmsNorm(args, nullptr));
          // The reference adds one square after the other, which long sums in F32 show.
          const double allowed = dim > 4096 ? std::max(tolerance(), 3e-5) : tolerance();
          ExpectNear(Widened((in_place ? device_x : out).ToHost(), dtype()),
                     Widened(ref_out, ref_dtype()), dim, allowed);
          ExpectNear(Widened(device_residual.ToHost(), dtype()), AsStored(ref_residual), dim, 0);
        }
      }
    }
  }
}

TEST_P(CudaRowOpsTest, SiluMul) {
  for (const int32_t dim : {1, 9, 64, 73, 768, 11008}) {
    for (const int32_t rows : {1, 5, 37}) {
      SCOPED_TRACE(testing::Message() << rows << "x" << dim);
      // Where F16 ends, silu must not yet have become 0.
      const float scale = dtype() == DType::kF16 ? 2 : 8;
      std::vector<float> gate_up = WithBadEnds(static_cast<size_t>(rows) * 2, dim, scale, dtype());
      if (dim > 4) {
        const float edges[] = {-1000, 100, kInf};
        std::ranges::copy(edges, gate_up.begin() + 1);
      }
      std::vector<char> ref_gate_up = Stored(gate_up, ref_dtype());
      std::vector<char> ref_out(ref_gate_up.size() / 2);
      SiluMulArgs args;
      args.out = ref_out.data();
      args.gate_up = ref_gate_up.data();
      args.rows = rows;
      args.dim = dim;
      args.dtype = ref_dtype();
      ASSERT_TRUE(ref_->SiluMul(args).ok());

      const DeviceBytes device(Stored(gate_up, dtype()));
      const DeviceBytes out(device.size() / 2);
      args.out = out.data();
      args.gate_up = device.data();
      args.dtype = dtype();
      ExpectCuda(LaunchSiluMul(args, nullptr));
      ExpectNear(Widened(out.ToHost(), dtype()), Widened(ref_out, ref_dtype()), dim, tolerance());
    }
  }
}

TEST_P(CudaRowOpsTest, GatherRows) {
  for (const int32_t dim : {1, 33, 128, 4096}) {
    for (const int32_t rows : {1, 9, 130}) {
      SCOPED_TRACE(testing::Message() << rows << "x" << dim);
      const std::vector<float> x = WithBadEnds(20, dim, 1, dtype());
      std::vector<int32_t> indices(rows);
      for (int32_t& index : indices) index = Below(20);
      std::vector<float> want;
      for (const int32_t index : indices) {
        want.insert(want.end(), x.begin() + static_cast<int64_t>(index) * dim,
                    x.begin() + static_cast<int64_t>(index + 1) * dim);
      }
      const DeviceBytes device(Stored(x, dtype()));
      const DeviceBytes device_indices(indices);
      const DeviceBytes out(want.size() * SizeOf(dtype()));
      GatherRowsArgs args;
      args.out = out.data();
      args.x = device.data();
      args.indices = static_cast<const int32_t*>(device_indices.data());
      args.rows = rows;
      args.dim = dim;
      args.dtype = dtype();
      ExpectCuda(LaunchGatherRows(args, nullptr));
      ExpectNear(Widened(out.ToHost(), dtype()), want, dim, 0);
    }
  }
}

// From this type to each.
TEST_P(CudaRowOpsTest, Convert) {
  for (const DType to : kAllTypes) {
    for (const size_t count : {1, 31, 1000, 1100001}) {
      SCOPED_TRACE(testing::Message() << "to " << Name(to) << ", " << count);
      std::vector<float> x = Random(count, 1, dtype());
      if (count > 8) {
        const float edges[] = {kNan, kInf, -kInf, 1e6F, 65504, 65519, 1e-7F, 1e-40F};
        std::ranges::copy(edges, x.end() - 8);
        x = Widened(Stored(x, dtype()), dtype());
      }
      const DeviceBytes device(Stored(x, dtype()));
      const DeviceBytes out(count * SizeOf(to));
      ExpectCuda(LaunchConvert(out.data(), to, device.data(), dtype(), static_cast<int64_t>(count),
                               nullptr));
      ExpectNear(Widened(out.ToHost(), to), Widened(Stored(x, to), to), 1, 0);
    }
  }
}

struct RotaryShape {
  int32_t kv_heads, group, head_dim, block_tokens, tokens;
};

// A token a slot, at random positions; the last two are padding.
TEST_P(CudaRowOpsTest, RotaryKvWrite) {
  const RotaryShape shapes[] = {{1, 1, 64, 16, 3},  {2, 4, 128, 16, 9}, {2, 7, 96, 24, 20},
                                {1, 8, 256, 8, 12}, {3, 2, 40, 5, 11},  {1, 3, 30, 16, 40},
                                {8, 4, 128, 16, 20}};
  constexpr int32_t kPadding = 2;
  constexpr int32_t kMaxBlocks = 3;
  for (const RotaryShape& shape : shapes) {
    for (const int32_t norms : {0, 1, 2, 3}) {
      SCOPED_TRACE(testing::Message() << shape.kv_heads << " kv heads, group " << shape.group
                                      << ", dim " << shape.head_dim << ", norms " << norms);
      const int32_t q_heads = shape.kv_heads * shape.group;
      const int32_t heads = q_heads + 2 * shape.kv_heads;
      const auto dim = static_cast<size_t>(shape.head_dim);
      const int32_t tokens = shape.tokens + kPadding;
      std::vector<float> qkv = WithBadEnds(static_cast<size_t>(tokens) * heads, dim, 1, dtype());
      // The same at the last token's last keys and values.
      qkv[(static_cast<size_t>(shape.tokens) * heads - shape.kv_heads) * dim - 1] = kNan;
      qkv[static_cast<size_t>(shape.tokens) * heads * dim - 1] = kInf;
      const std::vector<float> q_norm = Random(dim, 1, DType::kF32);
      const std::vector<float> k_norm = Random(dim, 1, DType::kF32);
      const std::vector<float> cos_sin = Random(tokens * dim, 0.7F, DType::kF32);
      std::vector<int32_t> tables(static_cast<size_t>(tokens) * kMaxBlocks);
      std::iota(tables.begin(), tables.end(), 0);
      std::ranges::shuffle(tables, random_);
      std::vector<int32_t> slots(tokens);
      std::iota(slots.begin(), slots.end(), 0);
      std::vector<int32_t> positions(tokens, -1);
      for (int32_t i = 0; i < shape.tokens; ++i) {
        positions[i] = Below(kMaxBlocks * shape.block_tokens);
      }
      const size_t plane = dim * shape.kv_heads * shape.block_tokens;
      const std::vector<float> arena(tables.size() * 4 * plane, kNan);

      RotaryKvWriteArgs args;
      args.kv.max_blocks = kMaxBlocks;
      args.kv.block_tokens = shape.block_tokens;
      args.kv.num_kv_heads = shape.kv_heads;
      args.kv.head_dim = shape.head_dim;
      args.num_q_heads = q_heads;
      args.norm_eps = 1e-6F;
      const auto set_dtype = [&](DType type) {
        const auto plane_bytes = static_cast<int64_t>(plane * SizeOf(type));
        args.kv.block_bytes = 4 * plane_bytes;
        args.kv.layer_offset = 2 * plane_bytes;
        args.kv.value_offset = 3 * plane_bytes;
        args.dtype = type;
      };
      std::vector<char> ref_qkv = Stored(qkv, ref_dtype());
      std::vector<char> ref_arena = Stored(arena, ref_dtype());
      args.qkv = ref_qkv.data();
      args.cos_sin = cos_sin.data();
      args.q_norm_weight = norms % 2 == 1 ? q_norm.data() : nullptr;
      args.k_norm_weight = norms / 2 == 1 ? k_norm.data() : nullptr;
      args.token_slots = slots.data();
      args.kv_positions = positions.data();
      args.kv.arena = ref_arena.data();
      args.kv.block_tables = tables.data();
      args.num_tokens = shape.tokens;
      set_dtype(ref_dtype());
      ASSERT_TRUE(ref_->RotaryKvWrite(args).ok());

      const DeviceBytes device_qkv(Stored(qkv, dtype()));
      const DeviceBytes device_arena(Stored(arena, dtype()));
      const DeviceBytes device_cos_sin(cos_sin);
      const DeviceBytes device_q_norm(q_norm);
      const DeviceBytes device_k_norm(k_norm);
      const DeviceBytes device_slots(slots);
      const DeviceBytes device_positions(positions);
      const DeviceBytes device_tables(tables);
      const auto floats = [](const DeviceBytes& at) {
        return static_cast<const float*>(at.data());
      };
      const auto ints = [](const DeviceBytes& at) {
        return static_cast<const int32_t*>(at.data());
      };
      args.qkv = device_qkv.data();
      args.cos_sin = floats(device_cos_sin);
      args.q_norm_weight = norms % 2 == 1 ? floats(device_q_norm) : nullptr;
      args.k_norm_weight = norms / 2 == 1 ? floats(device_k_norm) : nullptr;
      args.token_slots = ints(device_slots);
      args.kv_positions = ints(device_positions);
      args.kv.arena = device_arena.data();
      args.kv.block_tables = ints(device_tables);
      args.num_tokens = tokens;
      set_dtype(dtype());
      ExpectCuda(LaunchRotaryKvWrite(args, nullptr));

      // A norm and the rotation round one after the other.
      const double allowed = tolerance() * (norms == 0 ? 1 : 2);
      ExpectNear(Widened(device_arena.ToHost(), dtype()), Widened(ref_arena, ref_dtype()), dim,
                 allowed);
      const std::vector<float> got = Widened(device_qkv.ToHost(), dtype());
      const std::vector<float> want = Widened(ref_qkv, ref_dtype());
      for (int32_t token = 0; token < tokens; ++token) {
        const auto part = [&](const std::vector<float>& of, int32_t first, int32_t count) {
          const auto begin = of.begin() + (static_cast<int64_t>(token) * heads + first) *
                                              static_cast<int64_t>(dim);
          return std::vector<float>(begin, begin + count * static_cast<int64_t>(dim));
        };
        if (token < shape.tokens) {
          ExpectNear(part(got, 0, q_heads), part(want, 0, q_heads), dim, allowed);
        }
        // Keys and values stay what they were; the reference works in their place.
        ExpectNear(part(got, q_heads, 2 * shape.kv_heads), part(qkv, q_heads, 2 * shape.kv_heads),
                   dim, 0);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaRowOpsTest, testing::ValuesIn(kAllTypes),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST_F(CudaRowTest, RotaryTable) {
  for (const int32_t half_dim : {1, 16, 48, 64, 128}) {
    for (const int32_t tokens : {1, 7, 300}) {
      SCOPED_TRACE(testing::Message() << tokens << "x" << half_dim);
      std::vector<int32_t> positions(tokens);
      for (int32_t& position : positions) position = Below(131072);
      std::vector<float> inv_freq(half_dim);
      for (int32_t i = 0; i < half_dim; ++i) {
        inv_freq[i] = std::pow(500000.0F, -static_cast<float>(i) / static_cast<float>(half_dim));
      }
      const size_t count = static_cast<size_t>(tokens) * 2 * half_dim;
      std::vector<float> want(count);
      RotaryTableArgs args;
      args.cos_sin = want.data();
      args.positions = positions.data();
      args.inv_freq = inv_freq.data();
      args.num_tokens = tokens;
      args.half_dim = half_dim;
      args.scale = 1.1F;
      ASSERT_TRUE(ref_->RotaryTable(args).ok());
      const DeviceBytes device_positions(positions);
      const DeviceBytes device_inv_freq(inv_freq);
      const DeviceBytes out(count * sizeof(float));
      args.cos_sin = static_cast<float*>(out.data());
      args.positions = static_cast<const int32_t*>(device_positions.data());
      args.inv_freq = static_cast<const float*>(device_inv_freq.data());
      ExpectCuda(LaunchRotaryTable(args, nullptr));
      ExpectNear(Widened(out.ToHost(), DType::kF32), want, 2 * half_dim, 1e-6);
    }
  }
}

// A later copy reads what an earlier one wrote.
TEST_F(CudaRowTest, CopyBlocks) {
  constexpr int32_t kBlocks = 12;
  for (const int64_t block_bytes : {4, 52, 4096, 100000}) {
    SCOPED_TRACE(testing::Message() << block_bytes << " bytes");
    std::vector<char> arena(kBlocks * block_bytes);
    for (char& byte : arena) byte = static_cast<char>(Below(256));
    std::vector<int32_t> sources = {0, 1, 5, 2};
    std::vector<int32_t> destinations = {1, 2, 0, 11};
    for (int32_t i = 0; i < 10; ++i) {
      sources.push_back(Below(kBlocks));
      destinations.push_back((sources.back() + 1 + Below(kBlocks - 1)) % kBlocks);
    }
    const DeviceBytes device(arena);
    const DeviceBytes device_sources(sources);
    const DeviceBytes device_destinations(destinations);
    CopyBlocksArgs args;
    args.arena = arena.data();
    args.sources = sources.data();
    args.destinations = destinations.data();
    args.block_bytes = block_bytes;
    args.count = static_cast<int32_t>(sources.size());
    ASSERT_TRUE(ref_->CopyBlocks(args).ok());
    args.arena = device.data();
    args.sources = static_cast<const int32_t*>(device_sources.data());
    args.destinations = static_cast<const int32_t*>(device_destinations.data());
    ExpectCuda(LaunchCopyBlocks(args, nullptr));
    EXPECT_TRUE(device.ToHost() == arena);
  }
}

TEST_F(CudaRowTest, Scatter) {
  for (const int32_t count : {1, 7, 256, 257, 1000}) {
    SCOPED_TRACE(testing::Message() << count);
    std::vector<int32_t> out(2000);
    for (int32_t& v : out) v = Below(1000);
    std::vector<int32_t> indices(out.size());
    std::iota(indices.begin(), indices.end(), 0);
    std::ranges::shuffle(indices, random_);
    indices.resize(count);
    std::vector<int32_t> values(count);
    for (int32_t& v : values) v = Below(1 << 30);
    const DeviceBytes device(out);
    const DeviceBytes device_indices(indices);
    const DeviceBytes device_values(values);
    ScatterArgs args;
    args.out = static_cast<int32_t*>(device.data());
    args.indices = static_cast<const int32_t*>(device_indices.data());
    args.values = static_cast<const int32_t*>(device_values.data());
    args.count = count;
    for (int32_t i = 0; i < count; ++i) out[indices[i]] = values[i];
    ExpectCuda(LaunchScatter(args, nullptr));
    std::vector<int32_t> got(out.size());
    const std::vector<char> bytes = device.ToHost();
    std::memcpy(got.data(), bytes.data(), bytes.size());
    EXPECT_EQ(got, out);
  }
}

TEST_F(CudaRowTest, InlineCopy) {
  for (const size_t bytes : {0, 1, 3, 4, 255, 256, 257, 4032, 4033, 9001, 32640}) {
    for (const size_t skipped : {0, 1, 4}) {
      SCOPED_TRACE(testing::Message() << bytes << " bytes to " << skipped);
      std::vector<char> from(bytes);
      for (char& c : from) c = static_cast<char>(Below(256));
      const DeviceBytes device(bytes + skipped, 0);
      ExpectCuda(LaunchInlineCopy(static_cast<char*>(device.data()) + skipped, from.data(), bytes,
                                  nullptr));
      std::vector<char> want(skipped);
      want.insert(want.end(), from.begin(), from.end());
      EXPECT_TRUE(device.ToHost() == want);
    }
  }
  EXPECT_EQ(LaunchInlineCopy(nullptr, nullptr, kInlineCopyMax + 1, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace fathom::kernels::cuda
