#!/usr/bin/env bash
# Fuzzes the parsers of bytes from outside: scripts/fuzz.sh [--seconds N] [--jobs J] [TARGET...]
#
#   --seconds N  processor seconds for each target (default 120)
#   --jobs J     targets that run at once (default 1)
#   --list       name the targets
#
# Builds the preset `fuzz` and runs every target, or those named, from the seeds in tests/fuzz/corpus and from what earlier
# runs found. New finds are kept in .cache/fuzz/corpus, logs in .cache/fuzz/log. A line a target says what was covered; an
# input that broke something is named at the end, with how to run it again. The exit code is 0 when nothing broke.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

INPUT_BYTES_MAX=4096
INPUT_SECONDS_MAX=25
RSS_MIB_MAX=3072
# The fuzzer's exit code when it was told to end.
INTERRUPTED=72
# A panic caught at the border to Rust leaks a little, on purpose.
WITH_RUST="chat_template grammar grpc_request kserve_body openai_body tokenizer_json"

SEEDS="$ROOT/tests/fuzz/corpus"
HOME_OF_FINDS="$ROOT/.cache/fuzz"

all_targets() { find "$SEEDS" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort; }

seconds=120
jobs=1
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds | --jobs)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "$1 needs a number"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --list) all_targets && exit 0 ;;
    -h | --help) usage && exit 0 ;;
    -*) die "unknown argument $1 (see --help)" ;;
    *)
      [ -d "$SEEDS/$1" ] || die "there is no target $1; --list names them"
      targets+=("$1")
      ;;
  esac
  shift
done
if [ ${#targets[@]} = 0 ]; then mapfile -t targets < <(all_targets); fi

# asan_options TARGET: the system's gRPC, protobuf and abseil are not instrumented, so their containers look overrun.
asan_options() {
  local leaks=1
  if [[ " $WITH_RUST " == *" $1 "* ]]; then leaks=0; fi
  echo "detect_container_overflow=0:detect_leaks=$leaks"
}

# fuzzer TARGET ARGUMENT...: leaves the fuzzer's own process running in this one's place.
fuzzer() {
  export UBSAN_OPTIONS=print_stacktrace=1 ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-19 ASAN_OPTIONS
  ASAN_OPTIONS=$(asan_options "$1")
  exec "$ROOT/build/fuzz/fuzz/$1" "-rss_limit_mb=$RSS_MIB_MAX" "-timeout=$INPUT_SECONDS_MAX" "${@:2}"
}

# Whole processor seconds that process $1 has used, all its threads together.
processor_seconds() {
  awk -v hertz="$(getconf CLK_TCK)" '{print int(($14 + $15) / hertz)}' "/proc/$1/stat" 2>/dev/null || echo 0
}

# Of what earlier runs found, keeps only what covers something of its own.
merge() {
  local finds="$HOME_OF_FINDS/corpus/$1"
  if [ -z "$(ls -A "$finds")" ]; then return; fi
  rm -rf "$finds.merged"
  mkdir "$finds.merged"
  if (fuzzer "$1" -merge=1 "$finds.merged" "$finds") >"$HOME_OF_FINDS/log/$1.merge" 2>&1; then
    rm -rf "$finds"
    mv "$finds.merged" "$finds"
  fi
}

# Writes the name of the target to .cache/fuzz/broken when an input broke it.
run_target() {
  local name=$1 log="$HOME_OF_FINDS/log/$1.log" dictionary="$ROOT/tests/fuzz/dict/$1.dict" pid code=0
  local arguments=("-max_len=$INPUT_BYTES_MAX" -print_final_stats=1 "-artifact_prefix=$HOME_OF_FINDS/broken/$name-")
  if [ -f "$dictionary" ]; then arguments+=("-dict=$dictionary"); fi
  mkdir -p "$HOME_OF_FINDS/corpus/$name"
  merge "$name"
  fuzzer "$name" "${arguments[@]}" "$HOME_OF_FINDS/corpus/$name" "$SEEDS/$name" >"$log" 2>&1 &
  pid=$!
  trap 'kill $pid 2>/dev/null' EXIT
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if [ "$(processor_seconds "$pid")" -ge "$seconds" ]; then kill -TERM "$pid" 2>/dev/null || true; fi
  done
  wait "$pid" || code=$?
  trap - EXIT
  local verdict=ok
  if [ $code != 0 ] && [ $code != $INTERRUPTED ]; then
    verdict=BROKEN
    echo "$name" >>"$HOME_OF_FINDS/broken.txt"
  fi
  awk -v name="$name" -v verdict="$verdict" '
    /^stat::number_of_executed_units/ { executions = $2 }
    /^stat::average_exec_per_sec/ { rate = $2 }
    / ft: / { for (i = 1; i < NF; ++i) { if ($i == "ft:") features = $(i + 1); if ($i == "corp:") corpus = $(i + 1) } }
    END { sub("/.*", "", corpus)
          printf "%-16s %10d executions %7d/s %6d inputs %6d features  %s\n", name, executions, rate, corpus, features, verdict }
  ' "$log"
}

"$ROOT/scripts/setup.sh" --fuzz
step "building (fuzz)"
build_preset fuzz "${targets[@]/#/fuzz_}"

mkdir -p "$HOME_OF_FINDS/corpus" "$HOME_OF_FINDS/log" "$HOME_OF_FINDS/broken"
rm -f "$HOME_OF_FINDS/broken.txt"
step "fuzzing ${#targets[@]} targets, $seconds s each"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for name in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  run_target "$name" &
done
wait
trap - EXIT

if [ ! -s "$HOME_OF_FINDS/broken.txt" ]; then
  say "fuzz: ${#targets[@]} targets, nothing broke"
  exit 0
fi
say ""
while read -r name; do
  log="$HOME_OF_FINDS/log/$name.log"
  say "$name broke (${log#"$ROOT"/}):"
  grep -m 1 -E 'CHECK failed|runtime error|ERROR: (Address|Leak)Sanitizer|ERROR: libFuzzer' "$log" | sed 's/^/  /' >&2 || true
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  if [ -n "$input" ]; then
    say "  input: ${input#"$ROOT"/}"
    say "  again: ASAN_OPTIONS=$(asan_options "$name") build/fuzz/fuzz/$name ${input#"$ROOT"/}"
  fi
done <"$HOME_OF_FINDS/broken.txt"
die "broken: $(tr '\n' ' ' <"$HOME_OF_FINDS/broken.txt")"
