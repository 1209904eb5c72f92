#!/bin/sh
# Installs b24proxy as somebody does who has nothing but README.md: in a Debian
# that has never seen it, under Apache and under nginx. The commands are taken
# from README.md itself, so what is written there is what is tested. Then things
# are broken and `b24proxy check --url` must name them.
#
# Everything runs in namespaces of its own (ports 80 and 443 are free there, and
# no process or mount outlives the test). That needs root.
set -eu
cd "$(dirname "$0")/../.."

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

package=b24proxy_$(sh deploy/release/version.sh)_amd64.deb

if [ "${B24PROXY_INSTALL_BUILT:-}" != yes ]; then
    sh tests/packages.sh install
    [ -e "$target/dist/$package" ] || deploy/release/build.sh "$target/dist"
    cargo build --quiet --locked -p simulator
fi
if [ "$(id -u)" != 0 ]; then
    # chroot, and files of several users: `unshare --map-root-user` has one user only.
    sudo -n true 2>/dev/null ||
        fail "making and entering a clean Debian needs root, and sudo does not give it without a password"
    exec sudo -n env "CARGO_TARGET_DIR=$target" B24PROXY_INSTALL_BUILT=yes sh tests/install/run.sh
fi

cache=$target/install-root
mkdir -p "$cache"
# Two runs at once would write the same roots.
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d "$cache/run.XXXXXX")
children=
cleanup() {
    # With unshare die all processes of its namespaces. (It ignores SIGTERM.)
    for child in $children; do
        kill -s KILL "$child" 2>/dev/null || :
    done
    wait
    # The namespaces' mounts are gone with their processes. Should one not be,
    # nothing outside may be removed through it.
    rm -rf --one-file-system "$work" 2>/dev/null || { sleep 1 && rm -rf --one-file-system "$work"; }
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

suite=bookworm
include=curl,openssl,ca-certificates

# The machine's own mirror and proxy, if apt has them for this Debian.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' 2>/dev/null |
    sed -n "s/ $suite\$//p" | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}
apt-config dump Acquire | grep -i '::proxy' >"$work/apt.conf" || :

# A root is made once; the stamp says of what.
is_made() {
    [ "$(cat "$cache/$1.made" 2>/dev/null)" = "$2" ]
}

if ! is_made base "$suite $include"; then
    rm -rf --one-file-system "$cache"/*.made "$cache/base"
    mmdebstrap --quiet --variant=minbase --include="$include" --aptopt="$work/apt.conf" \
        "$suite" "$cache/base" "$mirror" || fail "mmdebstrap made no clean Debian from $mirror"
    # Questions have nobody to answer them, and no service manager runs there.
    echo 'APT::Get::Assume-Yes "true";' >"$cache/base/etc/apt/apt.conf.d/00test"
    printf '#!/bin/sh\nexit 101\n' >"$cache/base/usr/sbin/policy-rc.d"
    chmod 755 "$cache/base/usr/sbin/policy-rc.d"
    echo "$suite $include" >"$cache/base.made"
fi
echo "ok  a clean Debian $suite"

# README's own lines for the packages: the only ones that need the network.
for server in Apache nginx; do
    sh tests/install/readme.sh README.md "$server, with the single file" 1 >"$work/block"
    [ "$server" = nginx ] || sh tests/install/readme.sh docs/fastcgi.md "$server, with the single file" 1 >>"$work/block"
    line=$(sed -n 's/^apt install //p' "$work/block" | tr '\n' ' ')
    [ -n "$line" ] || fail "README.md: no \"apt install\" for $server"
    line="apt install ${line% }"
    made="$suite $include $line"
    if ! is_made "$server" "$made"; then
        rm -rf --one-file-system "$cache/$server" "$cache/$server.made"
        cp -a "$cache/base" "$cache/$server"
        cp /etc/resolv.conf "$cache/$server/etc/resolv.conf"
        cp "$work/apt.conf" "$cache/$server/etc/apt/apt.conf.d/01machine"
        # In a mount namespace, so that /proc and /dev go with it.
        unshare --mount --pid --fork --kill-child sh -c '
            mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
                chroot "$1" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh -c "apt-get update -q && $2"
        ' sh "$cache/$server" "$line" >"$cache/$server.log" 2>&1 ||
            fail "$server: $line: $(tail -n 5 "$cache/$server.log")"
        echo "$made" >"$cache/$server.made"
    fi
    echo "ok  $server: $line"
done

for how in "single file" package; do
    for server in Apache nginx; do
        root=$work/$server-${how% *}
        cp -a "$cache/$server" "$root"
        project=$root/root/b24proxy
        mkdir -p "$project"
        case $how in
        package) cp "$target/dist/$package" "$project" ;;
        *) cp -a README.md proxy.toml.example deploy "$target/dist/b24proxy" "$project" ;;
        esac
        chown -R 0:0 "$project"
        # Both servers at once: most of the time each waits.
        unshare --net --mount --pid --fork --kill-child \
            env package="$package" sh tests/install/inside.sh "$server" "$how" "$root" "$target/debug/simulator" &
        children="$children $!"
    done
    for child in $children; do
        wait "$child" || fail "with the $how: see above"
    done
    children=
    rm -rf --one-file-system "$work/Apache-${how% *}" "$work/nginx-${how% *}"
done
echo "Installed by README.md under Apache and nginx, with the package and the single file; check --url says all is well, and names what is broken."
