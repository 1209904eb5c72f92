#!/bin/sh
# Builds one executable for every x86-64 Linux with glibc 2.17 (2012) or newer, with its SHA-256:
#
#   deploy/release/build.sh [FOLDER]     # default: target/dist
#
# Needs cargo, python3 with venv, and the registries crates.io and PyPI. zig, which PyPI carries, links against the old
# glibc. Built with the same Rust from the same commit, the file is the same to the byte, wherever it is built.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD
target=${CARGO_TARGET_DIR:-$here/target}
case $target in /*) ;; *) target=$here/$target ;; esac
out=${1:-$target/dist}
triple=x86_64-unknown-linux-gnu

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
tools=$target/release-tools
if ! cmp -s deploy/release/requirements.txt "$tools/requirements.txt"; then
    rm -rf "$tools"
    python3 -m venv "$tools" || { echo "python3 -m venv does not work: install python3-venv" >&2; exit 1; }
    "$tools/bin/pip" install --quiet --disable-pip-version-check -r deploy/release/requirements.txt
    cp deploy/release/requirements.txt "$tools/"
fi
PATH=$tools/bin:$PATH

# No path of this machine in the file.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="--remap-path-prefix=$here=b24proxy --remap-path-prefix=$cargo_home=cargo"
export CARGO_TARGET_DIR="$target/zig"
export CARGO_INCREMENTAL=0
cargo zigbuild --quiet --release --locked --target "$triple.2.17"

mkdir -p "$out"
cp "$CARGO_TARGET_DIR/$triple/release/b24proxy" "$out/b24proxy"
chmod 755 "$out/b24proxy"
(cd "$out" && sha256sum b24proxy >b24proxy.sha256)
rustc --version
cat "$out/b24proxy.sha256"
