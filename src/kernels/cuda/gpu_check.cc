#include "kernels/cuda/gpu_check.h"

#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"

namespace fathom::kernels::cuda {
namespace {

constexpr int32_t kMajor = 9;  // Hopper

std::string VersionText(int32_t version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string GpuText(const GpuSurvey& survey, int32_t ordinal) {
  const bool known = ordinal >= 0 && ordinal < static_cast<int32_t>(survey.gpus.size());
  return known ? absl::StrCat("GPU ", ordinal, " (", survey.gpus[ordinal].name, ")")
               : absl::StrCat("GPU ", ordinal);
}

// What hides GPUs, when it is set.
std::string VisibleText(const GpuSurvey& survey) {
  return survey.visible ? absl::StrCat("; CUDA_VISIBLE_DEVICES is \"", *survey.visible, "\"") : "";
}

}  // namespace

GpuSurvey SurveyGpus() {
  GpuSurvey survey;
  if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) survey.visible = visible;
  if (cudaDriverGetVersion(&survey.driver) != cudaSuccess) survey.driver = 0;
  int count = 0;
  survey.counting = cudaGetDeviceCount(&count);
  if (survey.counting != cudaSuccess) {
    (void)cudaGetLastError();
    return survey;
  }
  for (int i = 0; i < count; ++i) {
    const auto properties = std::make_unique<cudaDeviceProp>();
    GpuDescription& gpu = survey.gpus.emplace_back();
    gpu.error = cudaGetDeviceProperties(properties.get(), i);
    if (gpu.error == cudaSuccess) {
      gpu = {properties->name, properties->major, properties->minor, cudaSuccess};
    } else {
      gpu.name = "does not answer";
      (void)cudaGetLastError();
    }
  }
  return survey;
}

absl::Status CheckGpu(const GpuSurvey& survey, int32_t ordinal) {
  if (survey.counting != cudaSuccess) return ExplainGpuError(survey, ordinal, survey.counting);
  if (survey.gpus.empty()) return ExplainGpuError(survey, ordinal, cudaErrorNoDevice);
  const auto count = static_cast<int32_t>(survey.gpus.size());
  if (ordinal < 0 || ordinal >= count) {
    std::string text = absl::StrCat("there is no GPU ", ordinal, "; this machine shows ", count);
    for (int32_t i = 0; i < count; ++i) {
      absl::StrAppend(&text, i == 0 ? " (" : ", ", "cuda:", i, " ", survey.gpus[i].name);
    }
    return absl::FailedPreconditionError(absl::StrCat(text, ")", VisibleText(survey)));
  }
  const GpuDescription& gpu = survey.gpus[ordinal];
  if (gpu.error != cudaSuccess) return ExplainGpuError(survey, ordinal, gpu.error);
  if (gpu.major == kMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(GpuText(survey, ordinal),
                                                    " has compute capability ", gpu.major, ".",
                                                    gpu.minor, "; this build runs on ", kMajor,
                                                    ".x (H100, H200). Choose another with --device "
                                                    "cuda:N, or use --device cpu"));
}

absl::Status ExplainGpuError(const GpuSurvey& survey, int32_t ordinal, cudaError_t error) {
  const std::string gpu = GpuText(survey, ordinal);
  std::string text;
  switch (error) {
    case cudaSuccess:
      return absl::OkStatus();
    case cudaErrorInsufficientDriver:
      text = survey.driver == 0
                 ? "there is no NVIDIA driver (libcuda.so.1 is missing). Install driver 580 or "
                   "newer; a container needs --gpus and the NVIDIA container toolkit"
                 : absl::StrCat("the NVIDIA driver is too old: it knows CUDA ",
                                VersionText(survey.driver), ", this build needs ",
                                VersionText(CUDART_VERSION), ". Install driver 580 or newer");
      break;
    case cudaErrorNoDevice:
      text = absl::StrCat("the NVIDIA driver shows no GPU", VisibleText(survey),
                          ". `nvidia-smi -L` lists those that the machine has; a container needs "
                          "--gpus");
      break;
    case cudaErrorInvalidDevice:
      text = absl::StrCat("there is no ", gpu, "; this machine shows ", survey.gpus.size(),
                          VisibleText(survey));
      break;
    case cudaErrorSystemNotReady:
      text =
          "the GPUs are not ready: their NVSwitch fabric is still being set up. See that "
          "nvidia-fabricmanager runs (systemctl status nvidia-fabricmanager), then try again";
      break;
    case cudaErrorSystemDriverMismatch:
      text =
          "the NVIDIA driver's library and its kernel module are of different versions. Reboot, "
          "or load the module anew; in a container, use the host's libcuda";
      break;
    case cudaErrorCompatNotSupportedOnDevice:
      text = "CUDA's compatibility package does not work on this GPU; install driver 580 or newer";
      break;
    case cudaErrorDevicesUnavailable:
      text = absl::StrCat(gpu,
                          " is taken: another process holds it alone, or its compute mode "
                          "forbids use. `nvidia-smi` shows who uses it");
      break;
    case cudaErrorMemoryAllocation:
      text = absl::StrCat(gpu, " has no memory left even to begin. `nvidia-smi` shows who uses it");
      break;
    case cudaErrorECCUncorrectable:
      text = absl::StrCat(gpu,
                          " has uncorrectable memory errors; it needs a reset or a repair "
                          "(`nvidia-smi -q -d ECC`)");
      break;
    case cudaErrorNoKernelImageForDevice:
      text = absl::StrCat("this build has no code for ", gpu, "; it runs on H100 and H200");
      break;
    default:
      text = absl::StrCat(gpu, " cannot be used: ", cudaGetErrorString(error),
                          ". `nvidia-smi` and the kernel's log (dmesg, NVRM and Xid) say more");
      break;
  }
  return absl::FailedPreconditionError(absl::StrCat(text, " (", cudaGetErrorName(error), ")"));
}

}  // namespace fathom::kernels::cuda
