// Over a fake libnvidia-ml.so, so that the way through dlopen is the real one.

#include "worker/gpu/gpu_monitor.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "absl/time/clock.h"
#include "common/metrics.h"
#include "common/strings.h"
#include "worker/gpu/testing/fake_nvml.h"

namespace fathom::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBusId[] = "0000:65:00.0";

class GpuTest : public ::testing::Test {
 protected:
  GpuTest()
      : library_(std::getenv("FATHOM_FAKE_NVML")),
        handle_(dlopen(library_.c_str(), RTLD_NOW)),
        fake_(static_cast<FakeNvml*>(dlsym(handle_, "fake_nvml"))) {
    for (auto* number : {&fake_->init_result, &fake_->result, &fake_->ecc_result, &fake_->xid,
                         &fake_->num_init, &fake_->num_shutdown, &fake_->num_event_sets}) {
      *number = 0;
    }
  }
  ~GpuTest() override { dlclose(handle_); }

  // The metrics' text, once `has` is in it.
  static std::string MetricsWith(const std::string& has) {
    std::string text;
    for (int i = 0; i < 2000; ++i) {
      text = RenderMetrics();
      if (text.find(has) != std::string::npos) break;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return text;
  }

  const std::string library_;
  void* const handle_;
  FakeNvml* const fake_;
};

TEST_F(GpuTest, EveryFigureIsReadInBaseUnits) {
  {
    const auto nvml = Nvml::Open(kBusId, library_);
    ASSERT_TRUE(nvml.ok()) << nvml.status();
    const GpuReading reading = (*nvml)->Read();
    EXPECT_EQ(reading.utilization, 0.37);
    EXPECT_EQ(reading.memory_activity, 0.12);
    EXPECT_EQ(reading.memory_used_bytes, 30.0 * (1 << 30));
    EXPECT_EQ(reading.memory_total_bytes, 80.0 * (1 << 30));
    EXPECT_EQ(reading.power_watts, 412.5);
    EXPECT_EQ(reading.temperature_celsius, 61);
    EXPECT_EQ(reading.sm_clock_hertz, 1.98e9);
    EXPECT_EQ(reading.uncorrected_ecc_errors, 2);
    EXPECT_EQ(reading.last_xid, 0);
    EXPECT_FALSE(reading.lost);
    EXPECT_EQ(fake_->num_event_sets, 1);
  }
  EXPECT_STREQ(fake_->bus_id, kBusId);
  EXPECT_EQ(fake_->num_init, 1);
  EXPECT_EQ(fake_->num_shutdown, 1);
  EXPECT_EQ(fake_->num_event_sets, 0);
}

TEST_F(GpuTest, WhatIsNotSupportedIsEmpty) {
  fake_->ecc_result = 3;
  const auto nvml = Nvml::Open(kBusId, library_);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  EXPECT_EQ((*nvml)->Read().uncorrected_ecc_errors, std::nullopt);
  EXPECT_TRUE((*nvml)->Read().power_watts.has_value());
}

TEST_F(GpuTest, AnXidIsRemembered) {
  const auto nvml = Nvml::Open(kBusId, library_);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  fake_->xid = 79;
  EXPECT_EQ((*nvml)->Read().last_xid, 79);
  EXPECT_EQ((*nvml)->Read().last_xid, 79);
  fake_->result = 15;
  EXPECT_TRUE((*nvml)->Read().lost);
}

TEST_F(GpuTest, WhatIsMissingIsSaid) {
  EXPECT_TRUE(absl::IsUnavailable(Nvml::Open(kBusId, "libno-such-nvml.so.1").status()));
  EXPECT_TRUE(absl::IsUnavailable(Nvml::Open(kBusId, "libm.so.6").status()));
  EXPECT_TRUE(absl::IsNotFound(Nvml::Open("0000:01:00.0", library_).status()));
  fake_->init_result = 9;
  const absl::Status status = Nvml::Open(kBusId, library_).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(Message(status)), HasSubstr("Driver Not Loaded"));
  EXPECT_EQ(fake_->num_shutdown, 1);  // of the unknown GPU alone
}

// One after the other, since gauges stay to the end of the process.
TEST_F(GpuTest, TheMonitorExportsWhatThereIs) {
  { const GpuMonitor monitor(kBusId, absl::Milliseconds(5), "libno-such-nvml.so.1"); }
  EXPECT_THAT(RenderMetrics(), Not(HasSubstr("fathom_worker_gpu")));
  fake_->ecc_result = 3;
  const GpuMonitor monitor(kBusId, absl::Milliseconds(5), library_);
  EXPECT_THAT(MetricsWith("fathom_worker_gpu_last_xid 0"),
              AllOf(HasSubstr("\nfathom_worker_gpu_utilization_ratio 0.37\n"),
                    HasSubstr("\nfathom_worker_gpu_memory_total_bytes 85899345920\n"),
                    HasSubstr("\nfathom_worker_gpu_power_watts 412.5\n"),
                    Not(HasSubstr("fathom_worker_gpu_ecc"))));
  fake_->xid = 48;
  EXPECT_THAT(MetricsWith("fathom_worker_gpu_last_xid 48"),
              HasSubstr("\nfathom_worker_gpu_last_xid 48\n"));
  fake_->result = 15;
  EXPECT_THAT(MetricsWith("fathom_worker_gpu_power_watts Nan"),
              HasSubstr("\nfathom_worker_gpu_power_watts Nan\n"));
}

}  // namespace
}  // namespace fathom::worker
