#!/usr/bin/env bash
# Everything about the GPU in one run: benchmarks/gpu/run.sh [--bin DIR] [--tests DIR] [--json DIR] [--no-peer]
#
#   --bin DIR    programs (default build/cuda/bin)
#   --tests DIR  tests (default build/cuda/tests)
#   --json DIR   where the figures go as JSON, one file a benchmark (default build/cuda/figures)
#   --no-peer    leave out transformers, which wants torch
#
# First what must be right: every operation's parity and the models' logits; a failure ends the run. Then times, with
# what they are held against measured in the same run: products, attention, sampling, the engine's steps, and beside them
# transformers on the same card. On a machine with a GPU and nothing else, unpack programs and tests there and name the
# folders; CUDA 13's cuBLASLt is found through LD_LIBRARY_PATH.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$root/build/cuda/bin
tests=$root/build/cuda/tests
json=$root/build/cuda/figures
peer=true
while [ $# -gt 0 ]; do
  case $1 in
    --bin | --tests | --json)
      [ $# -gt 1 ] || { echo "$1 needs a folder" >&2; exit 64; }
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --no-peer) peer=false ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) echo "unknown argument $1 (see --help)" >&2 && exit 64 ;;
  esac
  shift
done
mkdir -p "$json"
export FATHOM_SOURCE_DIR=$root

parity() {
  local filter=${2:-*}
  printf '%-28s ' "$1"
  # Tests skip where there is no GPU, which is no parity.
  if ! "$tests/$1" --gtest_filter="$filter" >"$json/$1.log" 2>&1 || grep -q 'no GPU' "$json/$1.log"; then
    echo FAILED
    tail -n 30 "$json/$1.log" >&2
    exit 1
  fi
  grep -o '\[  PASSED  \].*' "$json/$1.log"
}

echo "== parity"
for test in cuda_linear_test cuda_linear_fusion_test cuda_linear_wide_test cuda_attention_test cuda_decode_fusion_test \
  cuda_row_ops_test cuda_sampling_test; do
  parity $test
done
(cd "$root" && parity decoder_golden_test 'Cuda*')

echo "== products"
"$bin/fathom-gpu-linear-bench" --no-shapes --json "$json/linear.json"
echo "== attention"
"$bin/fathom-gpu-attention-bench" --json "$json/attention.json"
echo "== sampling"
"$bin/fathom-gpu-sampling-bench" --quick --json "$json/sampling.json"
echo "== steps"
"$bin/fathom-gpu-engine-bench" --json "$json/engine.json"
if $peer; then
  echo "== transformers"
  python3 "$root/benchmarks/gpu/peer_transformers.py" --json "$json/transformers.json"
fi
