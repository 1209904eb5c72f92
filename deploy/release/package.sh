#!/bin/sh
# Makes the package for Debian, Ubuntu and their relatives of an executable that is ready, with its SHA-256:
#
#   deploy/release/package.sh EXECUTABLE ARCHITECTURE FOLDER     # ARCHITECTURE: amd64, arm64
#
# FOLDER/b24proxy_VERSION_ARCHITECTURE.deb; into it comes what sbom.py writes before: the bill of materials,
# FOLDER/b24proxy_VERSION.cdx.json, and b24proxy_VERSION.licences.txt beside it. Nothing is run that is packed, so that any
# machine packs for any processor.
# Needs dpkg-deb, which Debian and its relatives have and the others call dpkg. Of the same dpkg-deb the file is the same to
# the byte, wherever and whenever it is made.
set -eu
[ $# = 3 ] || { echo "usage: deploy/release/package.sh EXECUTABLE amd64|arm64 FOLDER" >&2; exit 2; }
case $2 in
amd64 | arm64) architecture=$2 ;;
*) echo "not an architecture of Debian that is served: $2" >&2; exit 2 ;;
esac
executable=$(realpath "$1")
out=$(realpath "$3")
cd "$(dirname "$0")/../.."

command -v dpkg-deb >/dev/null 2>&1 || { echo "dpkg-deb is missing: install dpkg" >&2; exit 1; }
version=$(sh deploy/release/version.sh)
bill=$out/b24proxy_$version.cdx.json
[ -e "$bill" ] || { echo "$bill is missing: deploy/release/sbom.py writes it" >&2; exit 1; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(sh deploy/release/epoch.sh)}
export SOURCE_DATE_EPOCH LC_ALL=C

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
root=$work/root
share=$root/usr/share

install -D -m 755 "$executable" "$root/usr/lib/cgi-bin/b24proxy"
mkdir -p "$root/usr/bin"
ln -s ../lib/cgi-bin/b24proxy "$root/usr/bin/b24proxy"

# What stands in /etc is the administrator's: dpkg asks before it replaces what was changed.
install -D -m 644 -t "$root/etc/apache2/conf-available" deploy/apache/b24proxy*.conf
install -D -m 644 -t "$root/etc/nginx/snippets" deploy/nginx/b24proxy.conf deploy/nginx/b24proxy-root.conf
# Not enabled. The resident service, which takes the place of this one, is in /usr/share/b24proxy/systemd.
install -D -m 644 -t "$root/usr/lib/systemd/system" deploy/nginx/b24proxy.service deploy/nginx/b24proxy.socket

# The samples, as they lie in deploy/, but for what makes releases.
mkdir -p "$share"
cp -R deploy "$share/b24proxy"
rm -r "$share/b24proxy/debian" "$share/b24proxy/release"
cp proxy.toml.example "$share/b24proxy/"

install -D -m 644 deploy/completions/b24proxy.bash "$share/bash-completion/completions/b24proxy"
install -D -m 644 -t "$share/zsh/vendor-completions" deploy/completions/_b24proxy
install -D -m 644 -t "$share/fish/vendor_completions.d" deploy/completions/b24proxy.fish
install -D -m 644 -t "$share/man/man1" deploy/man/b24proxy.1
gzip -9n "$share/man/man1/b24proxy.1"

# The documents link to each other, to the samples and to the licence, as they do where they come from.
doc=$share/doc/b24proxy
install -D -m 644 -t "$doc" README.md README.ru.md SECURITY.md "$bill" "${bill%.cdx.json}.licences.txt"
cp -R docs "$doc/"
ln -s ../../b24proxy "$doc/deploy"
ln -s ../../b24proxy/proxy.toml.example "$doc/proxy.toml.example"
ln -s copyright "$doc/LICENSE"
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
# No Debian has a copy of the AGPL that could be named instead.
{ cat deploy/debian/copyright; sed 's/^$/./; s/^/ /' LICENSE; } >"$doc/copyright"
install -D -m 644 deploy/debian/lintian-overrides "$share/lintian/overrides/b24proxy"

# Whatever the umask of the checkout and of this shell.
find "$root" -type d -exec chmod 755 {} +
find "$share" -type f -exec chmod 644 {} +

size=$(find "$root" -type f -printf '%s\n' | awk '{ size += int(($1 + 1023) / 1024) } END { print size }')

install -D -m 755 -t "$root/DEBIAN" deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm
(cd "$root" && find etc -type f | sort | sed 's|^|/|' >DEBIAN/conffiles)
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@SIZE@/$size/" deploy/debian/control >"$root/DEBIAN/control"

package=b24proxy_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/$package" >/dev/null
(cd "$out" && sha256sum "$package" >"$package.sha256")
cat "$out/$package.sha256"
