#!/bin/sh
# The N-th block of shell commands in a section of README.md:
#   readme.sh "nginx on your own server" 1
set -eu
awk -v title="$1" -v wanted="$2" '
    /^#+ / && !block { inside = ($0 ~ "^#+ " title "$"); next }
    !inside   { next }
    /^```sh$/ { number++; block = 1; next }
    /^```/    { block = 0; next }
    block && number == wanted { print; found = 1 }
    END       { exit !found }
' "$(dirname "$0")/../../README.md" || {
    echo "README.md: the section \"$1\" has no block of commands number $2" >&2
    exit 1
}
