#!/usr/bin/env bash
# Generates the Go code of the gRPC API from proto/ and builds the example: examples/go/build.sh OUTPUT | --fetch
#
#   --fetch  only get what building needs from the network
#
# Needs go 1.24 and protoc. Modules and generators are pinned in go.mod; the generated code goes to fathomv1/, which is not committed.

set -euo pipefail

[ $# = 1 ] || {
  echo "usage: examples/go/build.sh OUTPUT | --fetch" >&2
  exit 2
}
output=$(realpath -m -- "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"

if [ "$1" = --fetch ]; then
  go mod download
  exit
fi

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN=$tools go install tool

# The API's file names no Go package; it is this module's own.
package=Mfathom/v1/inference.proto=fathom.example/generate/fathomv1
PATH=$tools:$PATH protoc -I ../../proto \
  --go_out=. --go_opt=module=fathom.example/generate,$package \
  --go-grpc_out=. --go-grpc_opt=module=fathom.example/generate,$package \
  fathom/v1/inference.proto
go build -o "$output" .
