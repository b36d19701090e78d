# Language level, warnings, sanitizers, ccache: everything that every target shares.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

option(FATHOM_CUDA "Build the CUDA backend (needs nvcc)" OFF)
set(FATHOM_SANITIZE "" CACHE STRING "Sanitizers to build with, e.g. address,undefined")

# -O3 costs compile time and buys nothing outside the kernels, which ask for it themselves.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
# Designated initializers leave fields to their defaults on purpose.
# nvcc takes other options; what it hands to the host compiler is set beside the kernels.
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Werror;-Wno-missing-field-initializers>")

# Boost.Beast 1.81 asserts in a parser that the end of an empty chunked body comes in no less than five bytes. It may come in
# four, the parser copes, and a client must not be able to end a server that was built with assertions.
add_compile_definitions($<$<OR:$<CONFIG:Debug>,$<BOOL:${FATHOM_FUZZ}>>:BOOST_DISABLE_ASSERTS>)

if(FATHOM_SANITIZE)
  add_compile_options(-fsanitize=${FATHOM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  # Lines are enough for a report; what else -g keeps doubles the time a build takes.
  add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-g1>)
  # GCC sees values that nothing has written where a sanitizer's checks part what belongs together.
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  add_link_options(-fsanitize=${FATHOM_SANITIZE})
  if(FATHOM_SANITIZE MATCHES "thread")
    # The sanitizer does not understand fences; without its own, Asio synchronises by mutexes.
    add_compile_options(-Wno-tsan)
    add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK)
  endif()
endif()

find_program(FATHOM_CCACHE ccache)
if(FATHOM_CCACHE)
  # base_dir and hash_dir let another checkout of the same tree share the cache.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
               CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${FATHOM_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()

find_program(FATHOM_MOLD mold)
if(FATHOM_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
