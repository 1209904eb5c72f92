#!/bin/sh
# Runs every test. Needs cargo; installs everything else (tests/packages.sh).
set -eu
cd "$(dirname "$0")/.."

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

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
sh tests/packages.sh all
component fmt rustfmt
component clippy clippy

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
step sh tests/onec/lint.sh
step cargo build --release --locked

target=${CARGO_TARGET_DIR:-target}
case $target in
/*) ;;
*) target=$PWD/$target ;;
esac
step sh tests/install/run.sh
export B24PROXY_TEST_BINARY="$target/release/b24proxy"
step cargo test --workspace --locked
