#!/usr/bin/env bash
# Checks form and finds faults that compilers let pass: scripts/lint.sh [--fix] [--changed [BASE]]
#
#   --fix             format the sources instead of complaining about their form
#   --changed [BASE]  clang-tidy only what differs from BASE (default main); the rest is fast anyway
#
# clang-format and clang-tidy (C++), clippy and rustfmt (Rust), ruff and mypy (Python), shellcheck (shell), gofmt where there is Go.
# Runs all, then fails if one did.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

fix=no
tidy_arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --fix) fix=yes ;;
    --changed)
      if [ $# -gt 1 ] && [ "${2#--}" = "$2" ]; then
        tidy_arguments=(--changed "$2")
        shift
      else
        tidy_arguments=(--changed main)
      fi
      ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $1 (see --help)" ;;
  esac
  shift
done

cd "$ROOT"
"$ROOT/scripts/setup.sh"
failures=()

# lint NAME COMMAND...: runs it and remembers whether it failed.
lint() {
  step "$1"
  "${@:2}" || failures+=("$1")
}

files() { git ls-files --cached --others --exclude-standard -- "$@"; }

mapfile -t cpp < <(files {src,benchmarks,examples,tests}/'*.'{h,cc,cu,cuh})
mapfile -t shell < <(files '*.sh' '.ci/run')

if [ "$fix" = yes ]; then
  clang-format -i "${cpp[@]}"
  "$VENV/bin/ruff" format --quiet .
  "$VENV/bin/ruff" check --quiet --fix . || true
  if cargo fmt --version >/dev/null 2>&1; then cargo fmt --manifest-path src/text/Cargo.toml; fi
fi

lint clang-format clang-format --dry-run --Werror "${cpp[@]}"
lint "ruff format" "$VENV/bin/ruff" format --check --quiet --diff .
lint "ruff check" "$VENV/bin/ruff" check --quiet --output-format concise .
"$VENV/bin/python" clients/python/protos.py
lint mypy "$VENV/bin/mypy" --config-file clients/python/pyproject.toml clients/python/src
lint shellcheck shellcheck "${shell[@]}"
if command -v gofmt >/dev/null; then
  mapfile -t go < <(files '*.go')
  # It lists what it would change, and ends well all the same.
  lint gofmt test -z "$(gofmt -l "${go[@]}" | tee /dev/stderr)"
fi
if cargo fmt --version >/dev/null 2>&1; then
  lint rustfmt cargo fmt --check --manifest-path src/text/Cargo.toml
else
  say "no rustfmt in this toolchain: skipped"
fi
if cargo clippy --version >/dev/null 2>&1; then
  CARGO_TARGET_DIR="$ROOT/build/release/cargo" lint clippy \
    cargo clippy --quiet --locked --release --all-targets --manifest-path src/text/Cargo.toml -- -D warnings
else
  say "no clippy in this toolchain: skipped"
fi
# clang-tidy reads the compile commands and the generated headers of the release build.
build_preset release fathom_proto_grpc >/dev/null
lint clang-tidy scripts/clang_tidy.py build/release --jobs "$(jobs_that_fit)" "${tidy_arguments[@]}"

if [ ${#failures[@]} -gt 0 ]; then
  IFS=,
  die "failed: ${failures[*]}"
fi
say "lint: all clean"
