// Every way in which a GPU can be missing, as CUDA would report it.

#include "kernels/cuda/gpu_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"

namespace fathom::kernels::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Refusal(const absl::Status& status) {
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  return std::string(status.message());
}

GpuSurvey TwoGpus() {
  GpuSurvey survey;
  survey.driver = 13000;
  survey.gpus = {{"NVIDIA H100 80GB HBM3", 9, 0}, {"NVIDIA A100-SXM4-40GB", 8, 0}};
  return survey;
}

GpuSurvey NoGpu(cudaError_t error, int32_t driver) {
  GpuSurvey survey;
  survey.driver = driver;
  survey.counting = error;
  return survey;
}

TEST(CheckGpu, AHopperIsTaken) { EXPECT_TRUE(CheckGpu(TwoGpus(), 0).ok()); }

TEST(CheckGpu, AnotherArchitectureIsNamed) {
  EXPECT_THAT(Refusal(CheckGpu(TwoGpus(), 1)),
              AllOf(HasSubstr("GPU 1 (NVIDIA A100-SXM4-40GB) has compute capability 8.0"),
                    HasSubstr("9.x (H100, H200)"), HasSubstr("--device cpu")));
}

TEST(CheckGpu, AnIndexOutOfRangeListsWhatIsThere) {
  GpuSurvey survey = TwoGpus();
  survey.visible = "0,1";
  for (const int32_t ordinal : {2, -1}) {
    EXPECT_THAT(Refusal(CheckGpu(survey, ordinal)),
                AllOf(HasSubstr("there is no GPU " + std::to_string(ordinal)),
                      HasSubstr("shows 2 (cuda:0 NVIDIA H100 80GB HBM3, cuda:1 NVIDIA A100"),
                      HasSubstr("CUDA_VISIBLE_DEVICES is \"0,1\"")));
  }
}

TEST(CheckGpu, NoDriverIsToldFromAnOldOne) {
  EXPECT_THAT(Refusal(CheckGpu(NoGpu(cudaErrorInsufficientDriver, 0), 0)),
              AllOf(HasSubstr("no NVIDIA driver"), HasSubstr("cudaErrorInsufficientDriver")));
  EXPECT_THAT(Refusal(CheckGpu(NoGpu(cudaErrorInsufficientDriver, 12040), 0)),
              AllOf(HasSubstr("too old"), HasSubstr("it knows CUDA 12.4"), HasSubstr("needs 13.0"),
                    Not(HasSubstr("no NVIDIA driver"))));
}

TEST(CheckGpu, HiddenGpusNameWhatHidesThem) {
  GpuSurvey survey = NoGpu(cudaErrorNoDevice, 13000);
  EXPECT_THAT(Refusal(CheckGpu(survey, 0)), Not(HasSubstr("CUDA_VISIBLE_DEVICES")));
  survey.visible = "";
  EXPECT_THAT(Refusal(CheckGpu(survey, 0)), HasSubstr("CUDA_VISIBLE_DEVICES is \"\""));
  survey.counting = cudaSuccess;
  EXPECT_THAT(Refusal(CheckGpu(survey, 0)), HasSubstr("shows no GPU"));
}

TEST(ExplainGpuError, EveryErrorSaysWhatToDoAndKeepsItsName) {
  const std::pair<cudaError_t, const char*> cases[] = {
      {cudaErrorSystemNotReady, "nvidia-fabricmanager"},
      {cudaErrorSystemDriverMismatch, "different versions"},
      {cudaErrorCompatNotSupportedOnDevice, "driver 580"},
      {cudaErrorDevicesUnavailable, "GPU 0 (NVIDIA H100 80GB HBM3) is taken"},
      {cudaErrorMemoryAllocation, "no memory left"},
      {cudaErrorECCUncorrectable, "uncorrectable memory errors"},
      {cudaErrorNoKernelImageForDevice, "no code for GPU 0"},
      {cudaErrorInvalidDevice, "shows 2"},
      {cudaErrorUnknown, "dmesg"},
  };
  for (const auto& [error, text] : cases) {
    EXPECT_THAT(Refusal(ExplainGpuError(TwoGpus(), 0, error)),
                AllOf(HasSubstr(text), HasSubstr(cudaGetErrorName(error))));
  }
  EXPECT_TRUE(ExplainGpuError(TwoGpus(), 0, cudaSuccess).ok());
}

// On whatever machine this runs: a GPU that cannot be there, and what the survey says about it.
TEST(CreateCudaBackend, RefusesAnIndexThatNoMachineHas) {
  const GpuSurvey survey = SurveyGpus();
  const auto backend = CreateCudaBackend({.ordinal = 1000});
  const std::string text = Refusal(backend.status());
  EXPECT_EQ(text, Refusal(CheckGpu(survey, 1000)));
  std::printf("%s\n", text.c_str());
}

}  // namespace
}  // namespace fathom::kernels::cuda
