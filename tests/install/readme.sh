#!/bin/sh
# The N-th block of shell commands in a section of a document:
#   readme.sh README.md "nginx on your own server" 1
set -eu
awk -v title="$2" -v wanted="$3" '
    /^#+ / && !block { inside = ($0 ~ "^#+ " title "$"); next }
    !inside   { next }
    /^```sh$/ { number++; block = 1; next }
    /^```/    { block = 0; next }
    block && number == wanted { print; found = 1 }
    END       { exit !found }
' "$(dirname "$0")/../../$1" || {
    echo "$1: the section \"$2\" has no block of commands number $3" >&2
    exit 1
}
