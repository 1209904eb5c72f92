#!/bin/sh
# What a call costs, beside a PHP script and an empty program: see README.md.
#
#   tests/bench/run.sh           about three minutes
#   tests/bench/run.sh --quick   one round, to see whether it works
#   tests/bench/run.sh --hold    only starts everything, for a profile of one call
set -eu
cd "$(dirname "$0")/../.."

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
sh tests/packages.sh bench
cargo build --quiet --release --locked
cargo build --quiet --profile bench --locked -p bench
target=${CARGO_TARGET_DIR:-$PWD/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac

tools=$(mktemp -d /tmp/b24proxy-bench-XXXXXX)
trap 'rm -rf "$tools"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$tools"
for program in floor runner; do
    cc -O2 -static -o "$tools/$program" "tests/bench/$program.c"
done

: "${B24PROXY_TEST_BINARY:=$target/release/b24proxy}"
export B24PROXY_TEST_BINARY
"$target/release/bench" "$tools" "$@"
