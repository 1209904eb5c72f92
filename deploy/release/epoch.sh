#!/bin/sh
# The time that all files of a package have, in seconds since 1970: that of the last commit; in a copy without git, the day of
# the newest release in CHANGELOG.md. So that the same sources make the same bytes on any day.
set -eu
cd "$(dirname "$0")/../.."

# Not that of another repository, in which this copy may lie.
if [ -e .git ] && git log -1 --format=%ct 2>/dev/null; then
    exit
fi
day=$(sed -n 's/^## \[[0-9.]*\] - \([0-9-]*\)$/\1/p' CHANGELOG.md | head -n 1)
[ -n "$day" ] || { echo "neither a commit nor a day in CHANGELOG.md: set SOURCE_DATE_EPOCH" >&2; exit 1; }
date -u -d "$day" +%s
