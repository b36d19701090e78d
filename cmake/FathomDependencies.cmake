# Every outside library, found once. Debian 12's packages are the reference versions.

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(Protobuf 3.21 REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(spdlog REQUIRED)
find_package(prometheus-cpp REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 QUIET CONFIG)
find_package(dnnl CONFIG REQUIRED)
find_package(GTest REQUIRED)
