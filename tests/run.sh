#!/bin/sh
# Runs the tests. Needs cargo; installs everything else (tests/packages.sh).
#
#   tests/run.sh        everything, of what could go on for hours a part
#   tests/run.sh quick  while one works: format, clippy, unit tests, and the contract on a debug build
#   tests/run.sh long   what takes longer: the load, the fuzz and the faults in full, the whole contract on databases
set -eu
cd "$(dirname "$0")/.."

usage() {
    echo "usage: tests/run.sh [quick|long]" >&2
    exit 2
}

[ $# -le 1 ] || usage
mode=${1-all}
case $mode in
all | quick | long) ;;
*) usage ;;
esac
[ $# = 0 ] || [ "$mode" != all ] || usage

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

# rustfmt or clippy, where the toolchain came without.
component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    if ! command -v rustup >/dev/null 2>&1; then
        echo "cargo $1 is missing and there is no rustup to add it: install $2" >&2
        exit 1
    fi
    step rustup component add "$2"
}

style() {
    component fmt rustfmt
    component clippy clippy
    step cargo fmt --all --check
    step cargo clippy --workspace --all-targets --locked -- -D warnings
}

# With these kinds of databases alone: each build is whole.
kinds() {
    for kind in "$@"; do
        step cargo clippy --no-default-features --features "$kind" --locked -- -D warnings
    done
}

# What is handed out is what is tested from here on.
release() {
    target=${CARGO_TARGET_DIR:-target}
    case $target in
    /*) ;;
    *) target=$PWD/$target ;;
    esac
    step deploy/release/build.sh "$target/dist"
    export B24PROXY_TEST_BINARY="$target/dist/b24proxy"
}

quick() {
    unset B24PROXY_TEST_BINARY
    style
    # All packages, as everywhere here: with other ones cargo builds their dependencies with other features, anew.
    step cargo test --workspace --locked --lib --bins
    # The footprint is that of a release, which takes a minute to build.
    step cargo test --workspace --locked --test contract -- --skip footprint:: --test-threads "$threads"
}

# The contract with this storage and this way to be started: all of it, or some of its modules. FastCGI without what starts
# servers or single processes of its own in either case.
contract() {
    storage=$1
    started=$2
    shift 2
    if [ "$started" = fastcgi ]; then
        for module in web_servers files_under_servers server_logs root footprint memory host_limits; do
            set -- "$@" --skip "$module::"
        done
    fi
    step env B24PROXY_TEST_STORAGE="$storage" B24PROXY_TEST_STARTED="$started" \
        cargo test --workspace --locked --test contract -- "$@" --test-threads "$threads"
}

whole() {
    style
    step env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --locked
    step sh tests/onec/lint.sh
    release
    step sh tests/install/run.sh
    step env RUST_TEST_THREADS="$((threads * 2 / 3))" cargo test --workspace --locked
    # Once more, with a resident process in place of one for each request: what lives longer there, waits or is streamed.
    contract file fastcgi access:: calls:: events:: files:: idempotency:: installation:: limits:: lists:: refresh:: relay:: \
        requests:: uploads:: visitor:: webhook::
    # And with a database in place of the token folder: what is kept there. All the rest in the long run.
    for database in postgres mysql; do
        contract "$database" cgi refresh:: idempotency:: nodes:: events:: \
            a_host_that_refuses_a_thread an_installation_by_another_bitrix24
    done
}

# What is committed makes the same bytes in another folder.
again() {
    copy=$(mktemp -d)
    git clone --quiet . "$copy/clone"
    step env -u CARGO_TARGET_DIR sh "$copy/clone/deploy/release/build.sh" "$copy/dist"
    step diff -r "$target/dist" "$copy/dist"
    rm -rf "$copy"
}

long() {
    kinds "" postgres mysql
    release
    again
    step env B24PROXY_LOAD_CALLS=20000 B24PROXY_NODES_CALLS=10000 cargo test --workspace --locked --test load -- --nocapture
    # On the debug build, whose arithmetic is checked.
    step env -u B24PROXY_TEST_BINARY B24PROXY_FUZZ_REQUESTS=50000 \
        cargo test --workspace --locked --test fuzz -- --nocapture
    # And by FastCGI, whose workers stay: streams of records, calls, reloads of the portal's web server.
    step env -u B24PROXY_TEST_BINARY B24PROXY_TEST_STARTED=fastcgi B24PROXY_FUZZ_REQUESTS=20000 \
        cargo test --workspace --locked --test fuzz -- --nocapture
    step env B24PROXY_RESIDENT_REQUESTS=100000 B24PROXY_RESIDENT_STREAMS=30000 B24PROXY_RESIDENT_RELOADS=24 \
        cargo test --workspace --locked --test resident -- --nocapture
    step env B24PROXY_FULL=1 cargo test --workspace --locked --test faults
    contract file fastcgi
    for database in postgres mysql; do
        contract "$database" cgi
        contract "$database" fastcgi
    done
}

# Most tests of the contract wait.
threads=$((3 * $(getconf _NPROCESSORS_ONLN)))

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
sh tests/packages.sh "$mode"
case $mode in
all) whole ;;
*) "$mode" ;;
esac
