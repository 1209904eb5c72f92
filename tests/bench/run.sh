#!/bin/sh
# What a call costs, beside a PHP script and an empty program: see README.md.
#
#   tests/bench/run.sh           about five minutes, after the builds
#   tests/bench/run.sh --quick   one round, to see whether it works
#   tests/bench/run.sh --hold    only starts everything, for a profile of one call
#
# B24PROXY_TEST_BINARY: the executable that is measured, in place of the one that is released.
# B24PROXY_BENCH_GLIBC: the one beside it, in place of what `cargo build --release` makes.
set -eu
cd "$(dirname "$0")/../.."

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
sh tests/packages.sh bench
target=${CARGO_TARGET_DIR:-$PWD/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
if [ -z "${B24PROXY_TEST_BINARY:-}" ]; then
    deploy/release/build.sh "$target/dist" >&2
    B24PROXY_TEST_BINARY=$target/dist/b24proxy
fi
if [ -z "${B24PROXY_BENCH_GLIBC:-}" ]; then
    cargo build --quiet --release --locked
    B24PROXY_BENCH_GLIBC=$target/release/b24proxy
fi
export B24PROXY_TEST_BINARY B24PROXY_BENCH_GLIBC
cargo build --quiet --profile bench --locked -p bench

tools=$(mktemp -d /tmp/b24proxy-bench-XXXXXX)
trap 'rm -rf "$tools"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$tools"
for program in floor runner; do
    cc -O2 -static -o "$tools/$program" "tests/bench/$program.c"
done

"$target/release/bench" "$tools" "$@"
