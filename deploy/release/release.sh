#!/bin/sh
# Releases a version, as far as a machine can: README.md beside this file.
#
#   deploy/release/release.sh VERSION [--dry-run]
#
# --dry-run looks whether all is ready and says what would be done. Where something fails, mend it and give the same command.
set -eu
cd "$(dirname "$0")/../.."

usage() {
    echo "usage: deploy/release/release.sh VERSION [--dry-run]" >&2
    exit 2
}

case $# in
1 | 2) ;;
*) usage ;;
esac
version=$1
case $version in
*[!0-9.]* | "") usage ;;
esac
dry=${2:-}
[ "$dry" = "" ] || [ "$dry" = --dry-run ] || usage

# All that is not ready is said at once.
ready=yes
wrong() {
    echo "not ready: $*" >&2
    ready=no
}

# has FILE SCRIPT: the version there, which sed finds by the script.
has() {
    found=$(sed -n "$2" "$1" | head -n 1)
    [ "$found" = "$version" ] || wrong "$1 says \"$found\" and not \"$version\""
}

[ "$(git rev-parse --abbrev-ref HEAD)" = main ] || wrong "this is not the branch main"
[ -z "$(git status --porcelain)" ] || wrong "there are changes that are not committed"
! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null || wrong "the tag v$version is there already"
has Cargo.toml 's/^version = "\(.*\)"$/\1/p'
has Cargo.lock '/^name = "b24proxy"$/ { n; s/^version = "\(.*\)"$/\1/p }'
has deploy/man/b24proxy.1 's/^\.TH .*"b24proxy \(.*\)"$/\1/p'
has deploy/1c/b24proxy.bsl '/^Функция ВерсияМодуля()/,/^КонецФункции/ s/^.*Возврат "\(.*\)";.*$/\1/p'
has deploy/1c/extension/Configuration.xml 's/^.*<Version>\(.*\)<\/Version>.*$/\1/p'
if grep -q "^## \[$version\] - [0-9-]*$" CHANGELOG.md; then
    dated=yes
else
    dated=
    sed -n '/^## \[Unreleased\]$/,/^## \[[0-9]/p' CHANGELOG.md | grep -q '^[*-] ' ||
        wrong "CHANGELOG.md has nothing under [Unreleased]"
fi
[ $ready = yes ] || exit 1

step() {
    printf '\n== %s\n' "$*"
    [ -n "$dry" ] || "$@"
}

# What is unreleased becomes this version, of today.
date_changelog() {
    sed "s/^## \[Unreleased\]$/&\n\n## [$version] - $(date -u +%F)/" CHANGELOG.md >CHANGELOG.md.new
    mv CHANGELOG.md.new CHANGELOG.md
    git commit --quiet --message "Release $version" CHANGELOG.md
}

out=${CARGO_TARGET_DIR:-target}/dist
files="b24proxy b24proxy-aarch64 b24proxy_${version}_amd64.deb b24proxy_${version}_arm64.deb"

check_sums() {
    for file in $files; do
        (cd "$out" && sha256sum --check --strict "$file.sha256") || return
    done
    [ -s "$out/b24proxy_$version.cdx.json" ] && [ -s "$out/b24proxy_$version.licences.txt" ]
}

step sh tests/run.sh
step sh tests/run.sh long
# From here on: the day of this commit is that of all files in the packages.
[ -n "$dated" ] || step date_changelog
[ -n "$dry" ] || rm -rf "$out"
step sh deploy/release/build.sh "$out"
step check_sums
step git tag --annotate --message "b24proxy $version" "v$version"

cat <<END

Left to a person:
  1. install $out/b24proxy_${version}_amd64.deb on a server, and b24proxy check --url …
  2. git push origin main v$version
  3. publish the release v$version with the text of CHANGELOG.md on it and these files of $out:
     $files,
     the .sha256 of each, b24proxy_$version.cdx.json and b24proxy_$version.licences.txt
END
