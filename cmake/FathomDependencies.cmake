# Every outside library, found once. Debian 12's packages are the reference versions.

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf 3.21 REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(prometheus-cpp REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 QUIET CONFIG)
find_package(dnnl CONFIG REQUIRED)
find_package(GTest REQUIRED)

# For programs in which one thread frees what another has allocated, message by message; sanitizers have their own.
if(NOT FATHOM_SANITIZE)
  find_library(FATHOM_JEMALLOC jemalloc REQUIRED)
endif()

# SOCI, with the two databases that we use. Its package has no CMake file, and its header for PostgreSQL reads libpq's.
find_path(SOCI_INCLUDE soci/soci.h REQUIRED)
find_path(LIBPQ_INCLUDE libpq-fe.h PATH_SUFFIXES postgresql REQUIRED)
add_library(soci INTERFACE IMPORTED)
target_include_directories(soci SYSTEM INTERFACE ${SOCI_INCLUDE} ${LIBPQ_INCLUDE})
foreach(part soci_core soci_sqlite3 soci_postgresql pq)
  find_library(LIBRARY_${part} ${part} REQUIRED)
  target_link_libraries(soci INTERFACE ${LIBRARY_${part}})
endforeach()
