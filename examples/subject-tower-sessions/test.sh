#!/usr/bin/env bash
# Fails unless every known bug of tower-sessions is found, and none of session-layer.
# Passes its arguments to both runs: --seed N.
set -euo pipefail
cd "$(dirname "$0")"

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# Runs a subject, and fails unless it exits with this code.
expect() { # CODE SUBJECT ARGUMENTS…
    local expected=$1 code=0
    shift
    cargo run --quiet -- "$@" 2>&1 | tee "$output" || code=$?
    if [ "$code" -ne "$expected" ]; then
        echo "test.sh: $1 exited with $code instead of $expected" >&2
        exit 1
    fi
}

expect 1 tower-sessions "$@"
for finding in \
    'MISSES ARE NEVER REFILLED' \
    'A REDIS OUTAGE IS AN ERROR, instead of a fallback' \
    'IT HANGS WHILE REDIS IS STOPPED' \
    'R9 is BROKEN' \
    'A LATE SAVE RESURRECTS A DELETED SESSION' \
    'R1 is BROKEN'; do
    if ! grep -qF "$finding" "$output"; then
        echo "test.sh: not found in tower-sessions: $finding" >&2
        exit 1
    fi
done

expect 0 session-layer "$@"
