#!/bin/bash
# Upgrades a cluster under load from an earlier revision to the working tree: scripts/upgrade_test.sh [REVISION]
#
#   REVISION  what to upgrade from: default the newest tag that is reachable
#
# Builds the revision's programs in .cache/upgrade, then runs tests/system/test_upgrade.py with them.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
  -h | --help)
    usage
    exit 0
    ;;
esac
revision="${1:-$(git -C "$ROOT" describe --tags --abbrev=0 2>/dev/null || true)}"
[ -n "$revision" ] || die "there is no tag yet: name a revision to upgrade from"
commit="$(git -C "$ROOT" rev-parse --verify "$revision^{commit}")" || die "no such revision: $revision"

tree="$ROOT/.cache/upgrade/$commit"
if [ ! -x "$tree/build/release/bin/fathom-sim-worker" ]; then
  step "building $revision in $tree"
  rm -rf "$tree"
  mkdir -p "$tree"
  git -C "$ROOT" archive "$commit" | tar --extract --directory "$tree"
  (cd "$tree" && cmake --preset release -DFATHOM_CARGO_DIR="$ROOT/build/release/cargo" >/dev/null &&
    cmake --build build/release --target fathom-master fathom-worker fathom-sim-worker)
fi
step "upgrading from $revision"
cd "$ROOT/tests/system"
FATHOM_PREVIOUS_BIN="$tree/build/release/bin" "$ROOT/.venv/bin/pytest" -q test_upgrade.py
