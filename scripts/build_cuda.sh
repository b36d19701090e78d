#!/usr/bin/env bash
# Compiles the CUDA backend, on any machine: scripts/build_cuda.sh [TARGET...]
#
#   TARGET  what to build of the preset `cuda` (default: the backend's library alone)
#
# Needs no GPU: without nvcc in PATH or CUDACXX, scripts/setup.sh assembles a toolkit in .cache/cuda.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  -h | --help) usage && exit 0 ;;
esac
[ $# -gt 0 ] || set -- fathom_kernels_cuda

cd "$ROOT"
"$ROOT/scripts/setup.sh" --cuda
step "building (cuda): $*"
if [ -z "${CUDACXX:-}" ] && ! command -v nvcc >/dev/null; then export CUDACXX="$ROOT/.cache/cuda/bin/nvcc"; fi
build_preset cuda "$@"
