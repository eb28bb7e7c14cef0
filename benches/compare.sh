#!/usr/bin/env bash
# Compares the validations per second of this checkout with those of another revision: compare.sh REVISION [ARGUMENTS…]
# The arguments are those of `compare --help`. Both builds share the target folder, so only the project's own crates are
# built twice.
set -euo pipefail
cd "$(dirname "$0")/.."

revision=$(git rev-parse --verify --quiet "${1:?names no revision to compare with}^{commit}") || {
    echo "compare.sh: no revision $1. Fetch it first, or name another one" >&2
    exit 2
}
shift
CARGO_TARGET_DIR=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR

temporary=$(mktemp --directory)
remove() {
    git worktree remove --force "$temporary/base" 2>/dev/null || true
    rm -rf "$temporary"
}
trap remove EXIT
git worktree add --quiet --detach "$temporary/base" "$revision"

cargo build -p session-testkit
(cd "$temporary/base" && cargo build --release -p session-benches --bin validations)
cp "$CARGO_TARGET_DIR/release/validations" "$temporary/validations-of-base"
cargo build --release -p session-benches --bin validations --bin compare
"$CARGO_TARGET_DIR/debug/session-testkit" run -- "$CARGO_TARGET_DIR/release/compare" \
    "$temporary/validations-of-base" "$CARGO_TARGET_DIR/release/validations" "$@"
