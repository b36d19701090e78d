#!/usr/bin/env bash
# Installs what building and testing Fathom needs on Debian 12: scripts/setup.sh [--cuda] [--fuzz] [--go]
#
#   --cuda  also assemble a CUDA toolkit from NVIDIA's Python wheels in .cache/cuda, for machines without one
#   --fuzz  also install the clang that the fuzz targets are built with
#   --go    also build grpcurl and fetch the modules of examples/go, into .cache, where there is Go; two system tests use them
#
# What is already there is left alone; a second run takes a moment. Debian packages are installed with apt-get (as root, or
# with sudo); Python tools go into .venv; nothing else outside the project is touched.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PACKAGES=(
  build-essential ca-certificates ccache clang-format clang-tidy cmake curl g++ git mold ninja-build patchelf pkg-config
  python3-venv shellcheck xz-utils
  libabsl-dev libbenchmark-dev libboost-json1.81-dev libboost1.81-dev libcli11-dev libdnnl-dev libgmock-dev libgrpc++-dev
  libgtest-dev libjemalloc-dev libpq-dev libprotobuf-dev libsoci-dev libssl-dev libyaml-cpp-dev prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc
  ocl-icd-opencl-dev # oneDNN's CMake file asks for OpenCL
  libomp-dev         # the omp.h that clang-tidy reads
  chromium chromium-driver # the chat page is tried in it
  postgresql-15            # masters' state is tried on it
)
FUZZ_PACKAGES=(
  clang-19 libclang-rt-19-dev
  llvm-19 # names of functions in stack traces
)
# The first release whose compiler builds the locked crates of src/text.
RUST_MINIMUM=1.85.0
GRPCURL=github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3

CUDA_WHEELS=(
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.1.0.3 nvidia-nccl-cu13==2.28.9 nvidia-nvml-dev==13.0.87
)

# True when version $1 is at least $2.
at_least() { printf '%s\n%s\n' "$2" "$1" | sort --check=quiet --version-sort; }

# True for a package that is installed whole.
package_present() {
  local status
  status=$(dpkg-query --show --showformat='${db:Status-Abbrev}' "$1" 2>/dev/null) && [ "${status:0:2}" = ii ]
}

install_packages() {
  command -v apt-get >/dev/null || die "this is no Debian; install by hand what these packages hold: $*"
  step "installing Debian packages: $*"
  export DEBIAN_FRONTEND=noninteractive
  # A list that is too old names files that are gone, so it is fetched anew before anything is installed.
  as_root apt-get update -qq || die "apt-get update failed; see its words above"
  as_root apt-get install -y -qq --no-install-recommends "$@" >"$ROOT/.cache/apt.log" 2>&1 || {
    tail -n 20 "$ROOT/.cache/apt.log" >&2
    die "apt-get install failed; the whole log is .cache/apt.log"
  }
}

# setup_packages PACKAGE...: installs those that are missing.
setup_packages() {
  local missing=()
  for package in "$@"; do
    package_present "$package" || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
}

rust_version() { rustc --version 2>/dev/null | awk '{print $2}'; }

setup_rust() {
  local version
  version=$(rust_version) || true
  if [ -n "$version" ] && command -v cargo >/dev/null && at_least "$version" "$RUST_MINIMUM"; then
    return
  fi
  install_packages rustc-web cargo-web
  hash -r
  version=$(rust_version) || true
  if [ -z "$version" ] || ! at_least "$version" "$RUST_MINIMUM"; then
    die "$(command -v rustc || echo rustc) is ${version:-missing}; Rust $RUST_MINIMUM or newer must come first in PATH"
  fi
}

setup_python() {
  local wanted stamp="$VENV/.requirements"
  wanted=$(sha256sum <"$ROOT/tests/requirements.txt")
  if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  step "installing the Python tools of the tests into .venv"
  # A virtual environment that was moved or half made is cheaper to replace than to mend.
  if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    python3 -m venv --clear "$VENV"
  fi
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$ROOT/tests/requirements.txt" ||
    die "pip could not install tests/requirements.txt"
  printf '%s\n' "$wanted" >"$stamp"
}

# OpenAI's client for Node, which the tests try against the server. Any node with npm will do.
setup_node() {
  local home="$ROOT/tests/clients/node" wanted
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then install_packages nodejs npm; fi
  wanted=$(sha256sum <"$home/package-lock.json")
  if [ "$(cat "$home/node_modules/.lock" 2>/dev/null)" = "$wanted" ]; then return; fi
  step "installing the Node packages of the tests into tests/clients/node/node_modules"
  (cd "$home" && npm ci --silent) || die "npm could not install tests/clients/node/package-lock.json"
  printf '%s\n' "$wanted" >"$home/node_modules/.lock"
}

# For one system test, which is skipped without it: there is no Debian package.
setup_grpcurl() {
  local bin="$ROOT/.cache/bin" go="$ROOT/.cache/go"
  if [ -x "$bin/grpcurl" ] || ! command -v go >/dev/null; then return; fi
  step "building grpcurl with go into .cache/bin"
  GOBIN="$bin" GOPATH="$go" GOCACHE="$go/build" GOFLAGS=-modcacherw go install "$GRPCURL" >"$ROOT/.cache/grpcurl.log" 2>&1 ||
    say "setup: go could not build $GRPCURL (.cache/grpcurl.log says why); its test will be skipped"
  rm -rf "$go"
}

# For one system test, which builds the example by itself, without the network, and is skipped without this.
setup_go_example() {
  local home="$ROOT/.cache/go-example" example="$ROOT/examples/go" wanted
  if ! command -v go >/dev/null; then return; fi
  wanted=$(cat "$example"/{build.sh,go.mod,go.sum} | sha256sum)
  if [ "$(cat "$home/.fetched" 2>/dev/null)" = "$wanted" ]; then return; fi
  step "fetching the modules of examples/go into .cache/go-example"
  rm -rf "$home"
  mkdir -p "$home"
  if GOPATH="$home" GOCACHE="$home/build" GOFLAGS=-modcacherw "$example/build.sh" --fetch >"$ROOT/.cache/go-example.log" 2>&1; then
    printf '%s\n' "$wanted" >"$home/.fetched"
  else
    say "setup: go could not fetch the modules of examples/go (.cache/go-example.log says why); its test will be skipped"
  fi
}

find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc "$ROOT/.cache/cuda/bin/nvcc"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Wheels lie as nvidia/cu13/{bin,include,lib,nvvm} and nvidia/nccl/{include,lib}; nvcc and CMake expect one toolkit folder with
# lib64 and libraries without version numbers.
setup_cuda() {
  local home="$ROOT/.cache/cuda" wanted
  wanted=$(printf '%s\n' "${CUDA_WHEELS[@]}" | sha256sum)
  if [ "$(cat "$home/.wheels" 2>/dev/null)" != "$wanted" ]; then
    step "assembling a CUDA toolkit from NVIDIA's wheels in .cache/cuda (about 1.2 GB)"
    rm -rf "$home" "$home.new"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$home.new/wheels" \
      "${CUDA_WHEELS[@]}" || die "pip could not fetch the CUDA wheels"
    local toolkit="$home.new/wheels/nvidia/cu13" nccl="$home.new/wheels/nvidia/nccl" library
    mv "$toolkit"/* "$home.new/"
    cp -r "$nccl/include/." "$home.new/include/"
    mv "$nccl"/lib/*.so* "$home.new/lib/"
    ln -s lib "$home.new/lib64"
    for library in "$home.new"/lib/*.so.*; do
      ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
    chmod +x "$home.new"/bin/* "$home.new"/nvvm/bin/* 2>/dev/null || true
    rm -rf "$home.new/wheels"
    printf '%s\n' "$wanted" >"$home.new/.wheels"
    mv "$home.new" "$home"
  fi
  local probe="$ROOT/.cache/cuda-probe"
  printf '__global__ void Twice(float* x) { x[threadIdx.x] *= 2; }\n' >"$probe.cu"
  "$home/bin/nvcc" -arch=sm_90 -c "$probe.cu" -o "$probe.o" || die "the assembled nvcc does not compile; remove .cache/cuda and retry"
  rm -f "$probe.cu" "$probe.o"
}

want_cuda=no
want_fuzz=no
want_go=no
for argument in "$@"; do
  case $argument in
    --cuda) want_cuda=yes ;;
    --fuzz) want_fuzz=yes ;;
    --go) want_go=yes ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $argument (see --help)" ;;
  esac
done

mkdir -p "$ROOT/.cache"
# Two runs at once would fight over the same folders.
exec 9>"$ROOT/.cache/setup.lock"
if command -v flock >/dev/null; then flock 9; fi

setup_packages "${PACKAGES[@]}"
if [ "$want_fuzz" = yes ]; then setup_packages "${FUZZ_PACKAGES[@]}"; fi
setup_rust
setup_python
setup_node
if [ "$want_go" = yes ]; then
  setup_grpcurl
  setup_go_example
fi
if [ "$want_cuda" = yes ]; then setup_cuda; fi

say "setup: all there; g++ $(g++ -dumpfullversion), cmake $(cmake --version | awk 'NR == 1 {print $3}'), rustc $(rust_version)," \
  "$("$VENV/bin/python" --version)"
if nvcc=$(find_nvcc); then
  say "setup: nvcc is $nvcc; cmake --preset cuda builds for GPUs (CUDACXX=$nvcc chooses it when it is not in PATH)"
else
  say "setup: no nvcc here; everything but the CUDA backend builds without. scripts/setup.sh --cuda assembles a toolkit"
fi
