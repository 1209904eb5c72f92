#!/bin/sh
# Builds what is handed out, each file with its SHA-256:
#
#   deploy/release/build.sh [FOLDER]     # default: target/dist
#
#   b24proxy           static, for every x86-64 Linux
#   b24proxy-aarch64   static, for every 64-bit ARM Linux
#   b24proxy_VERSION_amd64.deb, b24proxy_VERSION_arm64.deb
#   b24proxy_VERSION.cdx.json, b24proxy_VERSION.licences.txt: what is in them, and its licences
#
# Needs cargo, python3 with venv, dpkg-deb, and the registries crates.io and PyPI. Rust's standard library for musl is the one that rustup
# has; where it has none, Debian's Rust builds it from Debian's sources: apt install rustc-web cargo-web rust-web-src. zig, which
# PyPI carries, is the C compiler and links. Built with the same Rust from the same commit, the files are the same to the byte,
# wherever they are built.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD
target=${CARGO_TARGET_DIR:-$here/target}
case $target in /*) ;; *) target=$here/$target ;; esac
out=${1:-$target/dist}
x86=x86_64-unknown-linux-musl
arm=aarch64-unknown-linux-musl

# What cargo tells a program that it has started, a test for example, is of another build.
for name in $(env | sed -n 's/^\(CARGO_\(MANIFEST\|PKG\)_[A-Z_]*\)=.*/\1/p') CARGO LD_LIBRARY_PATH OUT_DIR; do
    unset "$name"
done
command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
tools=$target/release-tools
if ! cmp -s deploy/release/requirements.txt "$tools/requirements.txt"; then
    rm -rf "$tools"
    python3 -m venv "$tools" || { echo "python3 -m venv does not work: install python3-venv" >&2; exit 1; }
    "$tools/bin/pip" install --quiet --disable-pip-version-check -r deploy/release/requirements.txt
    cp deploy/release/requirements.txt "$tools/"
fi

std=
if ! sh deploy/release/musl.sh; then
    # The compiler and the sources are of one version, as they must be.
    PATH=/usr/bin:$PATH
    hash -r
    if [ ! -e /usr/lib/rustlib/src/rust/library/std/Cargo.toml ] || [ ! -x /usr/bin/cargo ]; then
        echo "Rust has no standard library for musl here, and rustup brings none:" >&2
        echo "apt install rustc-web cargo-web rust-web-src" >&2
        exit 1
    fi
    std="-Z build-std=std,panic_abort -Z build-std-features="
    export RUSTC_BOOTSTRAP=1
fi
PATH=$tools/bin:$PATH

# No path of this machine in the files. A fixed address, so that nothing is relocated at each start; zig's musl. No tables for
# unwinding, which a program that ends with its first panic never does: half a megabyte, where the standard library is built here
# too; beside rustup's they stay.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export CARGO_TARGET_DIR="$target/static"
RUSTFLAGS="-C relocation-model=static -C force-unwind-tables=no -C link-self-contained=no"
for path in "$here=b24proxy" "$CARGO_TARGET_DIR=target" "$cargo_home=cargo"; do
    RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$path"
done
export RUSTFLAGS CARGO_INCREMENTAL=0
# Words of their own.
# shellcheck disable=SC2086
cargo zigbuild --quiet --release --locked $std --target $x86 --target $arm

mkdir -p "$out"
hand_out() {
    install -m 755 "$CARGO_TARGET_DIR/$1/release/b24proxy" "$out/$2"
    (cd "$out" && sha256sum "$2" >"$2.sha256" && cat "$2.sha256")
}
rustc --version
hand_out $x86 b24proxy
hand_out $arm b24proxy-aarch64

version=$(sh deploy/release/version.sh)
# Where zig keeps the C library that it links.
musl=$(echo "$tools"/lib/python3*/site-packages/ziglang/lib/libc/musl)
python3 deploy/release/sbom.py "$out/b24proxy_$version.cdx.json" \
    "rust-std@$(rustc --version | cut -d ' ' -f 2)=MIT OR Apache-2.0" \
    "musl@$(cut -d '"' -f 2 "$musl/src/internal/version.h")=MIT=$musl/COPYRIGHT"
deploy/release/package.sh "$out/b24proxy" amd64 "$out"
deploy/release/package.sh "$out/b24proxy-aarch64" arm64 "$out"
