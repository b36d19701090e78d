# fathom_fuzz: a libFuzzer target a parser. With FATHOM_FUZZ (preset `fuzz`, clang) it is the fuzzer build/fuzz/fuzz/NAME; in
# every other build it is a program that runs the target once over each seed of its corpus, and a test.

option(FATHOM_FUZZ "Build the fuzz targets with libFuzzer (needs clang)" OFF)

if(FATHOM_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "FATHOM_FUZZ needs clang: use the preset `fuzz` (scripts/setup.sh --fuzz installs the compiler).")
  endif()
  # Coverage of all our code; the fuzzer's own main comes in at the targets alone.
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=fuzzer-no-link>)
endif()

# fathom_fuzz(NAME sse SRCS sse.cc DEPS cli/http_client)
# Its seeds lie in corpus/NAME, its words, where there are any, in dict/NAME.dict beside the CMakeLists.txt.
function(fathom_fuzz)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  set(target fuzz_${ARG_NAME})
  add_executable(${target} ${ARG_SRCS})
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  _fathom_link(${target} PRIVATE ${ARG_DEPS})
  if(FATHOM_FUZZ)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    set_target_properties(${target} PROPERTIES OUTPUT_NAME ${ARG_NAME} RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
    return()
  endif()
  _fathom_link(${target} PRIVATE fuzz/driver)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME fuzz_corpus_${ARG_NAME} COMMAND ${target} ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${ARG_NAME})
  set_tests_properties(fuzz_corpus_${ARG_NAME} PROPERTIES TIMEOUT 120 LABELS fuzz)
endfunction()
