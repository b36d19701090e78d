#!/usr/bin/env bash
# From a fresh checkout to a first answer: scripts/quickstart.sh [QUESTION]
#
# Installs what is missing, builds, starts a master and a worker with the model that ships with Fathom on free ports of this
# machine, asks one question, prints the answer as it comes and how fast it came, and stops everything again.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  -h | --help) usage && exit 0 ;;
esac
question=${*:-What is Fathom?}

"$ROOT/scripts/setup.sh"
step "building (the first time takes some minutes)"
build_preset release fathom fathom-master fathom-worker

fathom="$ROOT/build/release/bin/fathom"
# A folder of its own, so that a cluster that runs already is not disturbed.
state=$(mktemp -d)
export FATHOM_STATE_DIR=$state
unset FATHOM_URL FATHOM_API_KEY
cluster=
stop() {
  if [ -n "$cluster" ]; then
    kill -TERM "$cluster" 2>/dev/null || true
    wait "$cluster" || true
  fi
  rm -rf "$state"
}
trap stop EXIT

step "starting a master and a worker"
"$fathom" up --port 0 --grpc-port 0 >"$state/up.log" 2>&1 &
cluster=$!
until [ -s "$state/cluster.json" ]; do
  kill -0 "$cluster" 2>/dev/null || {
    cluster=
    cat "$state/up.log" >&2
    die "the cluster did not start"
  }
  sleep 0.05
done
head -n 1 "$state/up.log" >&2

step "$question"
"$fathom" chat --stats "$question"

step "stopping"
kill -TERM "$cluster"
wait "$cluster" || die "the cluster did not stop cleanly"
cluster=

cat >&2 <<EOF

It works. Next:
  build/release/bin/fathom up                                   run a cluster until Ctrl-C
  build/release/bin/fathom chat                                 talk to it (in another terminal)
  build/release/bin/fathom eval --data models/tiny/eval.jsonl   grade the model
  scripts/test.sh                                               run all tests
EOF
