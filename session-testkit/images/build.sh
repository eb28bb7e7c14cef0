#!/bin/sh
# Builds local images of Redis and Postgres from the distribution's packages, for Docker engines
# that can reach no container registry. Where the images are there, nothing is done.
#
#   build.sh [--mirror URL] [--suite NAME] [--force] [redis] [postgres]
#
# One debootstrap (minbase) serves both images. The mirror and the suite are those of this
# machine's apt sources unless given. Names: session-testkit/redis:MAJOR, session-testkit/postgres:MAJOR.
#
# Exit code 0: the images are there; 2: they could not be built (the last line says what to do).
set -eu

prefix=session-testkit
mirror= suite= force= wanted=

say() { printf '[images] %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --mirror) [ $# -ge 2 ] || fail "--mirror needs a URL"; mirror=$2; shift ;;
        --suite) [ $# -ge 2 ] || fail "--suite needs a name"; suite=$2; shift ;;
        --force) force=yes ;;
        redis | postgres) wanted="$wanted $1" ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "unknown argument '$1' (see --help)" ;;
    esac
    shift
done
[ -n "$wanted" ] || wanted="redis postgres"

docker version >/dev/null 2>&1 || fail "no Docker engine answers: start one, or point DOCKER_HOST at it"

missing=
for name in $wanted; do
    if [ -z "$force" ] && [ -n "$(docker images -q "$prefix/$name" 2>/dev/null)" ]; then
        say "$prefix/$name is there"
    else
        missing="$missing $name"
    fi
done
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || fail "building needs root (debootstrap, chroot): run it as 'sudo $0'"
[ -r /etc/os-release ] || fail "this is not Debian or Ubuntu: pull the official images redis:7-bookworm and postgres:16-bookworm instead"
distribution=$(. /etc/os-release && echo "$ID")
[ -n "$suite" ] || suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$suite" ] || fail "/etc/os-release names no release: give one with --suite"

# The first archive that carries the suite, in deb822 (.sources) or in the old one-line form (.list).
apt_mirror() {
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -r "$file" ] || continue
        awk -v suite="$suite" '
            function flush() { if (deb && carries && uri != "") { print uri; exit }; deb = carries = 0; uri = "" }
            /^[ \t]*$/ { flush(); next }
            tolower($1) == "types:" { for (i = 2; i <= NF; i++) if ($i == "deb") deb = 1 }
            tolower($1) == "uris:" { uri = $2 }
            tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == suite) carries = 1 }
            END { flush() }' "$file"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -r "$file" ] || continue
        sed -n 's/^[ \t]*deb[ \t]\{1,\}//p' "$file" | sed 's/^\[[^]]*\][ \t]*//' |
            awk -v suite="$suite" '$2 == suite { print $1 }'
    done
}
[ -n "$mirror" ] || mirror=$(apt_mirror | head -n 1)
[ -n "$mirror" ] || fail "no apt source of this machine carries '$suite': give a mirror with --mirror URL"

if ! command -v debootstrap >/dev/null 2>&1; then
    say "installing debootstrap"
    { apt-get install -y --no-install-recommends debootstrap ||
        { apt-get update && apt-get install -y --no-install-recommends debootstrap; }; } >/dev/null 2>&1 ||
        fail "debootstrap is missing and could not be installed: 'apt-get install debootstrap'"
fi

# /var/tmp rather than /tmp: debootstrap needs a file system with device nodes and programs.
work=$(mktemp -d "${TMPDIR:-/var/tmp}/session-testkit-images.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 2' INT TERM HUP

components=main
[ "$distribution" = ubuntu ] && components=main,universe

say "building$missing for '$suite' (a minute or a few)"
debootstrap --variant=minbase --components="$components" "$suite" "$work/base" "$mirror" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "debootstrap failed: is the mirror of this machine's apt sources reachable?"; }
# No service may start inside the chroot, and no cluster be made by the package itself.
printf '#!/bin/sh\nexit 101\n' >"$work/base/usr/sbin/policy-rc.d"
chmod 755 "$work/base/usr/sbin/policy-rc.d"
mkdir -p "$work/base/etc/postgresql-common"
# The disk need not keep up with a root that is thrown away if anything goes wrong.
echo force-unsafe-io >"$work/base/etc/dpkg/dpkg.cfg.d/session-testkit"
echo "create_main_cluster = false" >"$work/base/etc/postgresql-common/createcluster.conf"
cp /etc/resolv.conf "$work/base/etc/resolv.conf"

# install ROOT PACKAGE…: then everything that a server does not need to run is taken out again.
install() {
    root=$1
    shift
    DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" apt-get install -y --no-install-recommends "$@" >>"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "'apt-get install $*' failed inside the image"; }
    chroot "$root" apt-get clean
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/usr/share/doc "$root"/usr/share/man \
        "$root"/usr/share/locale "$root"/usr/share/info "$root"/var/log/* "$root"/tmp/* \
        "$root"/etc/resolv.conf "$root"/etc/apt/sources.list "$root"/usr/sbin/policy-rc.d \
        "$root"/etc/dpkg/dpkg.cfg.d/session-testkit
}

# import ROOT NAME:TAG CHANGE…
import() {
    root=$1 image=$2
    shift 2
    for change in "$@"; do set -- "$@" --change "$change"; shift; done
    tar --numeric-owner -C "$root" -c . | docker import "$@" - "$image" >/dev/null ||
        fail "'docker import' of $image failed"
    say "built $image"
}

build_redis() {
    root=$work/redis
    cp -a "$work/base" "$root"
    install "$root" redis-server
    major=$(chroot "$root" redis-server --version | sed 's/.*v=\([0-9]*\).*/\1/')
    [ "$major" -ge 7 ] || fail "'$suite' has Redis $major, and 7.0 or later is needed: give a newer release with --suite"
    mkdir -p "$root/data"
    chroot "$root" chown redis:redis /data
    import "$root" "$prefix/redis:$major" \
        'USER redis' 'WORKDIR /data' 'EXPOSE 6379' 'CMD ["redis-server"]'
    rm -rf "$root"
}

build_postgres() {
    root=$work/postgres
    cp -a "$work/base" "$root"
    install "$root" postgresql
    bin=$(cd "$root" && ls -d usr/lib/postgresql/*/bin | tail -n 1)
    major=$(chroot "$root" "/$bin/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    # LLVM is a third of the image and only for just-in-time compilation, which is no use to short queries.
    rm -rf "$root"/usr/lib/postgresql/*/lib/bitcode "$root"/usr/lib/postgresql/*/lib/llvmjit* "$root"/usr/lib/*/libLLVM*
    # The cluster is made here, once, so that a container starts in a fraction of a second.
    # `trust` for every address: it is a throw-away server, reachable from this machine only.
    chroot --userspec=postgres:postgres "$root" "/$bin/initdb" --no-sync --auth=trust --username=postgres \
        --encoding=UTF8 --locale=C --wal-segsize=1 --pgdata=/var/lib/postgresql/data >>"$work/log" 2>&1 ||
        { tail -n 20 "$work/log" >&2; fail "initdb failed inside the image"; }
    echo "host all all all trust" >>"$root/var/lib/postgresql/data/pg_hba.conf"
    # What the official image's entrypoint does at the end: run what it is given ("postgres -c …").
    printf '#!/bin/sh\nexec "$@"\n' >"$root/usr/local/bin/entrypoint"
    chmod 755 "$root/usr/local/bin/entrypoint"
    mkdir -p "$root/run/postgresql"
    chroot "$root" chown postgres:postgres /run/postgresql
    import "$root" "$prefix/postgres:$major" \
        'USER postgres' 'WORKDIR /var/lib/postgresql' 'EXPOSE 5432' \
        "ENV PATH=/$bin:/usr/local/bin:/usr/bin:/bin" 'ENV PGDATA=/var/lib/postgresql/data' \
        'ENTRYPOINT ["/usr/local/bin/entrypoint"]' 'CMD ["postgres","-c","listen_addresses=*"]'
    rm -rf "$root"
}

for name in $missing; do
    "build_$name"
done
