#!/usr/bin/env bash
# What takes too long for every commit: scripts/nightly.sh [--only STEP,...] [--fuzz-seconds N] [--soak-minutes N]
#
#   --only STEP,...   some of: tidy, asan, tsan, fuzz, soak (all of them without)
#   --fuzz-seconds N  CPU time a fuzz target (default 600)
#   --soak-minutes N  how long the mixed load goes on (default 30)
#
# tidy: every linter over every file. asan: all tests with AddressSanitizer and UndefinedBehaviorSanitizer. tsan: what lies
# below gRPC with ThreadSanitizer. fuzz: scripts/fuzz.sh. soak: benchmarks/soak. A step that fails does not stop the others; a
# table says at the end how each went, and their output is kept in build/nightly/STEP.log.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

steps=(tidy asan tsan fuzz soak)
fuzz_seconds=600
soak_minutes=30
while [ $# -gt 0 ]; do
  case $1 in
    --only | --fuzz-seconds | --soak-minutes)
      [ $# -gt 1 ] || die "$1 needs a value"
      case $1 in
        --only) IFS=, read -r -a steps <<<"$2" ;;
        --fuzz-seconds) fuzz_seconds=$2 ;;
        --soak-minutes) soak_minutes=$2 ;;
      esac
      shift
      ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $1 (see --help)" ;;
  esac
  shift
done

run_step() {
  case $1 in
    tidy) scripts/lint.sh ;;
    asan) scripts/test.sh --preset asan ;;
    tsan) scripts/test.sh --preset tsan ;;
    fuzz) scripts/fuzz.sh --seconds "$fuzz_seconds" ;;
    soak)
      build_preset release
      "$VENV/bin/python" benchmarks/soak --minutes "$soak_minutes"
      ;;
    *) die "no step $1 (see --help)" ;;
  esac
}

cd "$ROOT"
logs="$ROOT/build/nightly"
mkdir -p "$logs"
table=()
status=0
for name in "${steps[@]}"; do
  step "$name (build/nightly/$name.log)"
  started=$SECONDS
  # A shell of its own: what fails in it, or leaves it, ends this step only.
  if (run_step "$name") >"$logs/$name.log" 2>&1; then outcome=passed; else outcome=FAILED; fi
  if [ $outcome = FAILED ]; then
    status=1
    tail -n 20 "$logs/$name.log" >&2
  fi
  table+=("$(printf '%-6s %-7s %4d min  %s' "$name" $outcome $(((SECONDS - started + 30) / 60)) \
    "$(tail -n 1 "$logs/$name.log")")")
done
printf '%s\n' "${table[@]}"
exit $status
