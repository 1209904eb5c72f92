#!/bin/sh
# Lints deploy/1c with onec-hbk-bsl, in a virtual environment below cargo's target folder.
#
# The linter asks for Python 3.12, which Debian 12 does not have. It also runs on 3.11, and lint.py makes sure of it: a
# module that is broken on purpose must be found broken.
set -eu
cd "$(dirname "$0")/../.."

venv=${CARGO_TARGET_DIR:-target}/onec-venv
wanted=$(python3 --version && cat tests/onec/requirements.txt)
if [ "$(cat "$venv/wanted" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --ignore-requires-python \
        -r tests/onec/requirements.txt
    printf '%s\n' "$wanted" >"$venv/wanted"
fi
exec "$venv/bin/python" tests/onec/lint.py deploy/1c/b24proxy.bsl deploy/1c/README.ru.md
