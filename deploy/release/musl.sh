#!/bin/sh
# Whether Rust's standard library for musl is there, on both kinds of processor, or rustup brings it: exit status 0, or 1.
set -eu
targets="x86_64-unknown-linux-musl aarch64-unknown-linux-musl"
libraries=$(rustc --print sysroot)/lib/rustlib

are_there() {
    for target in $targets; do
        [ -d "$libraries/$target/lib" ] || return 1
    done
}

are_there && exit
command -v rustup >/dev/null 2>&1 || exit 1
# Words of their own.
# shellcheck disable=SC2086
timeout 120 rustup target add $targets >/dev/null 2>&1 || exit 1
are_there
