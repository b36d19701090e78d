#!/usr/bin/env bash
# Builds Fathom and runs all its tests: scripts/test.sh [--preset NAME] [--fast]
#
#   --preset NAME  release (default), debug, asan or tsan
#   --fast         leave the system tests out
#
# C++, Rust and tidy tests run with ctest; the Python client's, and the system tests against real processes, with pytest. The last
# line says `N passed, N failed`; the exit code is 0 when none failed. With tsan only what lies below gRPC is tested: Debian's
# gRPC is not instrumented, and the sanitizer takes what it orders for races.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset=release
fast=no
while [ $# -gt 0 ]; do
  case $1 in
    --preset)
      [ $# -gt 1 ] || die "--preset needs a name"
      preset=$2
      shift
      ;;
    --fast) fast=yes ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $1 (see --help)" ;;
  esac
  shift
done

cd "$ROOT"
"$ROOT/scripts/setup.sh" --go
step "building ($preset)"
build_preset "$preset"

chosen=()
if [ "$preset" = tsan ]; then
  chosen=(--label-exclude 'grpc|tidy')
  fast=yes
fi

results="$ROOT/build/$preset/test-results"
rm -rf "$results"
mkdir -p "$results"
status=0

step "C++, Rust and tidy tests"
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error --parallel "$(nproc)" "${chosen[@]}" \
  --output-junit "$results/ctest.xml" >"$results/ctest.log" 2>&1 || status=1
# All of it when something failed, else the summary.
if [ $status -ne 0 ]; then cat "$results/ctest.log"; else tail -n 12 "$results/ctest.log"; fi

step "tests of the Python client"
"$VENV/bin/python" -m pytest clients/python --quiet --numprocesses "$(nproc)" \
  --junit-xml "$results/client_python.xml" || status=1

if [ "$fast" = no ]; then
  step "system tests"
  if [ "$preset" = asan ]; then export FATHOM_TEST_SANITIZED=1; fi
  FATHOM_BIN="$ROOT/build/$preset/bin" "$VENV/bin/python" -m pytest tests/system \
    --numprocesses "$(nproc)" --junit-xml "$results/pytest.xml" || status=1
fi

"$VENV/bin/python" "$ROOT/scripts/count_tests.py" "$results" || status=1
exit $status
