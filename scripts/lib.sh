# shellcheck shell=bash
# Shared by the scripts beside it: where the project is, how to speak, how to run as root. Source it first.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
export ROOT VENV

say() { printf '%s\n' "$*" >&2; }
# A heading of a step, told apart from the output of the tools it runs.
step() { if [ -t 2 ]; then printf '\033[1m== %s\033[0m\n' "$*" >&2; else printf '== %s\n' "$*" >&2; fi; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Prints the comment block at the head of the script, which is its manual.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root for: $* (run it as root, or install sudo)"
  fi
}

# Compilers that may run at once: one a core, but 1.5 GiB of memory each.
jobs_that_fit() {
  local cores memory_gib
  cores=$(nproc)
  memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  local fit=$((memory_gib * 2 / 3))
  [ "$fit" -ge 1 ] || fit=1
  [ "$fit" -le "$cores" ] || fit=$cores
  echo "$fit"
}

# Configures and builds a preset: build_preset PRESET [TARGET...]
build_preset() {
  local preset=$1
  shift
  cmake --preset "$preset" -S "$ROOT" >"$ROOT/.cache/configure-$preset.log" 2>&1 || {
    cat "$ROOT/.cache/configure-$preset.log" >&2
    die "cmake --preset $preset failed"
  }
  cmake --build "$ROOT/build/$preset" --parallel "$(jobs_that_fit)" ${1:+--target "$@"}
}
