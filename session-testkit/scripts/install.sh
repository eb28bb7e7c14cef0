#!/bin/sh
# Installs what the tests need and this machine lacks.
#
#   install.sh
#
# - redis-server (or valkey-server), postgres, pgbouncer (a pooler in front of it), libfaketime (to step a clock), and
#   prometheus (which checks and fires the alerts of ops/), from the packages of Debian or Ubuntu, as root or with sudo.
#   The distribution's own servers are not started.
# - Images of both if a Docker engine runs. ../images/build.sh builds them unless the official ones exist.
# - cargo-nextest, by cargo.
#
# Exit code 0: nothing is missing. 1: something is missing, and the last lines say what to do.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
lacking=

say() { printf '[install] %s\n' "$*" >&2; }
lack() {
    lacking=yes
    say "error: $*"
}

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    # Without a terminal no user can type a password.
    if [ -t 0 ]; then as_root=sudo; else as_root="sudo -n"; fi
else
    as_root=none
fi

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
have_redis() { have redis-server || have valkey-server; }
have_postgres() {
    have postgres && return
    for file in /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$file" ] && return
    done
    return 1
}

have_faketime() {
    # Elsewhere the test of stepped clocks does not run.
    [ "$(uname)" = Linux ] || return 0
    for file in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib*/faketime/libfaketimeMT.so.1; do
        [ -f "$file" ] && return
    done
    return 1
}

packages=
have_faketime || packages="$packages libfaketime"
have_redis || packages="$packages redis-server"
have_postgres || packages="$packages postgresql"
have pgbouncer || packages="$packages pgbouncer"
{ have prometheus && have promtool; } || packages="$packages prometheus"

install_packages() {
    if ! have apt-get; then
        lack "missing:$packages. This script installs on Debian and Ubuntu only: use this system's package manager"
        return
    fi
    if [ "$as_root" = none ]; then
        lack "missing:$packages. Run as root: apt-get install$packages"
        return
    fi
    say "installing$packages"
    # Every package runs this file before it starts a service. 101 stands for "not allowed".
    policy=/usr/sbin/policy-rc.d
    ours=
    if [ ! -e "$policy" ]; then
        ours=yes
        trap '$as_root rm -f "$policy"' EXIT
        trap 'exit 1' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
    fi
    log=$(mktemp)
    if $as_root apt-get update >"$log" 2>&1 &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages >>"$log" 2>&1; then
        say "installed$packages"
    else
        tail -n 15 "$log" >&2
        lack "apt-get could not install$packages (its last lines are above)"
    fi
    rm -f "$log"
    if [ -n "$ours" ]; then
        $as_root rm -f "$policy"
        trap - EXIT INT TERM HUP
    fi
}
[ -z "$packages" ] || install_packages

images_there() {
    for name in redis postgres; do
        [ -n "$(docker images -q "session-testkit/$name")" ] ||
            [ -n "$(docker images -q "$name")" ] || return 1
    done
}

if have docker && docker version >/dev/null 2>&1; then
    if ! images_there; then
        if [ "$as_root" = none ]; then
            lack "building images needs root: run $here/../images/build.sh as root, or docker pull redis:7-bookworm postgres:16-bookworm"
        else
            $as_root "$here/../images/build.sh" || lack "no images for Docker: the tests with containers will be skipped"
        fi
    fi
else
    say "no Docker engine answers: the tests with containers will be skipped"
fi

if ! cargo nextest --version >/dev/null 2>&1; then
    say "installing cargo-nextest (some minutes)"
    cargo install --locked --quiet cargo-nextest || lack "'cargo install --locked cargo-nextest' failed"
fi

[ -z "$lacking" ] || exit 1
