# The CUDA toolkit, wanted by the preset `cuda` alone: everything else builds and tests without it. The language is enabled
# at the top, since every program that links the backend needs it.

if(FATHOM_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR
      "FATHOM_CUDA is ON, but there is no working nvcc. Put nvcc in PATH, set CUDACXX to it, or let scripts/setup.sh "
      "assemble a toolkit; without CUDA use the preset `release`.")
  endif()
  set(CMAKE_CUDA_ARCHITECTURES 90a)
  enable_language(CUDA)
  # CMake 3.25 marks this target deprecated whether or not it is there, and CUDA 13 no longer brings it.
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
  find_package(CUDAToolkit REQUIRED)
  # CMake 3.25 does not know how to ask nvcc for C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  string(APPEND CMAKE_CUDA_FLAGS " -Werror=all-warnings -Xcompiler=-Wall,-Wextra")
endif()
