#!/bin/sh
# The N-th block of shell commands in a section of a document:
#   readme.sh README.md "nginx, with the package" 1
set -eu
awk -v title="$2" -v wanted="$3" '
    /^#+ / && !block { inside = ($0 ~ "^#+ " title "$"); next }
    !inside { next }
    # In a list, a block is indented as its fence is.
    /^ *```sh$/ { number++; block = 1; indent = index($0, "`"); next }
    /^ *```/    { block = 0; next }
    block && number == wanted { print substr($0, indent); found = 1 }
    END { exit !found }
' "$(dirname "$0")/../../$1" || {
    echo "$1: the section \"$2\" has no block of commands number $3" >&2
    exit 1
}
