# fathom_library / fathom_test / fathom_executable: sources are listed, dependencies are declared, nothing is globbed.
# A target `common/store` is named fathom_common_store; DEPS take the short form (`common/store`) for ours and any CMake
# target for others.

function(_fathom_target_name out short)
  string(REPLACE "/" "_" flat ${short})
  set(${out} fathom_${flat} PARENT_SCOPE)
endfunction()

function(_fathom_link target visibility)
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "::" OR dep MATCHES "^-" OR TARGET ${dep})
      target_link_libraries(${target} ${visibility} ${dep})
    else()
      _fathom_target_name(name ${dep})
      target_link_libraries(${target} ${visibility} ${name})
    endif()
  endforeach()
endfunction()

# fathom_library(NAME worker/engine SRCS a.cc HDRS a.h DEPS common absl::status)
function(fathom_library)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;HDRS;DEPS" ${ARGN})
  _fathom_target_name(name ${ARG_NAME})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS} ${ARG_HDRS})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    _fathom_link(${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE ${ARG_HDRS})
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    _fathom_link(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# fathom_executable(NAME fathom-worker SRCS main.cc DEPS worker)
function(fathom_executable)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_include_directories(${ARG_NAME} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  _fathom_link(${ARG_NAME} PRIVATE ${ARG_DEPS})
endfunction()

# fathom_test(NAME scheduler_test SRCS scheduler_test.cc DEPS worker/engine [DATA dir] [LABELS slow] [TIMEOUT 120])
# One test program a file; FATHOM_SOURCE_DIR tells it where models/tiny and the goldens lie.
function(fathom_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS;ENVIRONMENT" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_include_directories(${ARG_NAME} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  _fathom_link(${ARG_NAME} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES
    TIMEOUT ${ARG_TIMEOUT} LABELS "unit;${ARG_LABELS}"
    ENVIRONMENT "FATHOM_SOURCE_DIR=${CMAKE_SOURCE_DIR};${ARG_ENVIRONMENT}")
endfunction()
