#pragma once

// For tests that hold the fast backend to the reference: guarded tensors, and a fixture for every
// instruction set and storage type.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/cpu/fast_backend.h"
#include "kernels/cpu/ref_backend.h"
#include "kernels/tolerance.h"

namespace fathom::kernels::cpu {
inline constexpr size_t kGuardBytes = 64;
inline constexpr unsigned char kGuard = 0xA5;

// Values of a storage type between guards.
class Tensor {
 public:
  Tensor(size_t count, DType dtype) : count_(count), dtype_(dtype) {
    bytes_.assign(count * SizeOf(dtype) + 2 * kGuardBytes, kGuard);
  }
  void* data() { return bytes_.data() + kGuardBytes; }
  size_t count() const { return count_; }
  float At(size_t i) const {
    const unsigned char* at = bytes_.data() + kGuardBytes + i * SizeOf(dtype_);
    if (dtype_ == DType::kF32) {
      float v;
      std::memcpy(&v, at, sizeof(v));
      return v;
    }
    BFloat16 v;
    std::memcpy(&v, at, sizeof(v));
    return ToFloat(v);
  }
  void Set(size_t i, float value) {
    unsigned char* at = bytes_.data() + kGuardBytes + i * SizeOf(dtype_);
    if (dtype_ == DType::kF32) {
      std::memcpy(at, &value, sizeof(value));
    } else {
      const BFloat16 rounded = ToBFloat16(value);
      std::memcpy(at, &rounded, sizeof(rounded));
    }
  }
  void ExpectGuardsWhole() const {
    for (size_t i = 0; i < kGuardBytes; ++i) {
      ASSERT_EQ(bytes_[i], kGuard) << "wrote before the output";
      ASSERT_EQ(bytes_[bytes_.size() - 1 - i], kGuard) << "wrote behind the output";
    }
  }

 private:
  size_t count_;
  DType dtype_;
  std::vector<unsigned char> bytes_;
};

// Rows of `row` elements; NaN and inf must lie alike.
inline void ExpectSame(const Tensor& fast, const Tensor& ref, size_t row, double tolerance) {
  fast.ExpectGuardsWhole();
  ASSERT_EQ(fast.count(), ref.count());
  for (size_t begin = 0; begin < ref.count(); begin += row) {
    double difference = 0;
    double highest = 1e-30;
    for (size_t i = begin; i < begin + row; ++i) {
      const double a = fast.At(i);
      const double b = ref.At(i);
      ASSERT_EQ(std::isnan(a), std::isnan(b)) << "element " << i << ": " << a << ", " << b;
      if (std::isnan(b)) continue;
      if (std::isinf(b)) {
        ASSERT_EQ(a, b) << "element " << i;
        continue;
      }
      difference = std::max(difference, std::abs(a - b));
      highest = std::max(highest, std::abs(b));
    }
    ASSERT_LE(difference / highest, tolerance) << "row " << begin / row;
  }
}

using Target = std::tuple<Isa, DType>;

class OpParityTest : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    const std::optional<Isa> best = DetectIsa();
    if (!best || *best < isa()) GTEST_SKIP() << "this machine lacks " << Name(isa());
    fast_ = CreateFastBackend({.threads = 3}, isa());
  }
  Isa isa() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  double tolerance() const { return OpTolerance(dtype()); }

  Tensor Random(size_t count, float scale = 1) { return Random(count, scale, dtype()); }
  Tensor Random(size_t count, float scale, DType type) {
    Tensor tensor(count, type);
    std::normal_distribution<float> normal(0, scale);
    for (size_t i = 0; i < count; ++i) tensor.Set(i, normal(random_));
    return tensor;
  }
  // All NaN: an output that nobody writes shows.
  Tensor Poison(size_t count) { return Poison(count, dtype()); }
  static Tensor Poison(size_t count, DType type) {
    Tensor tensor(count, type);
    for (size_t i = 0; i < count; ++i) tensor.Set(i, std::numeric_limits<float>::quiet_NaN());
    return tensor;
  }

  std::mt19937 random_{42};
  std::unique_ptr<Backend> ref_ = CreateRefBackend();
  std::unique_ptr<Backend> fast_;
};

inline std::string TargetName(const testing::TestParamInfo<Target>& info) {
  return std::string(Name(std::get<0>(info.param))) + "_" + fathom::Name(std::get<1>(info.param));
}

inline auto AllTargets() {
  return testing::Combine(testing::Values(Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx),
                          testing::Values(DType::kF32, DType::kBF16));
}

}  // namespace fathom::kernels::cpu
