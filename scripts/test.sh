#!/usr/bin/env bash
# Builds Fathom and runs all its tests: scripts/test.sh [--preset NAME] [--fast]
#
#   --preset NAME  release (default), debug, asan or tsan
#   --fast         leave the system tests out
#
# C++, Rust and tidy tests run with ctest, the system tests with pytest against real processes. The last line says
# `N passed, N failed`; the exit code is 0 when none failed.

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
"$ROOT/scripts/setup.sh" --grpcurl
step "building ($preset)"
build_preset "$preset"

results="$ROOT/build/$preset/test-results"
rm -rf "$results"
mkdir -p "$results"
status=0

step "C++, Rust and tidy tests"
ctest --test-dir "build/$preset" --output-on-failure --no-tests=error --parallel "$(nproc)" \
  --output-junit "$results/ctest.xml" >"$results/ctest.log" 2>&1 || status=1
# All of it when something failed, else the summary.
if [ $status -ne 0 ]; then cat "$results/ctest.log"; else tail -n 12 "$results/ctest.log"; fi

if [ "$fast" = no ]; then
  step "system tests"
  FATHOM_BIN="$ROOT/build/$preset/bin" "$VENV/bin/python" -m pytest tests/system \
    --numprocesses "$(nproc)" --junit-xml "$results/pytest.xml" || status=1
fi

"$VENV/bin/python" "$ROOT/scripts/count_tests.py" "$results" || status=1
exit $status
