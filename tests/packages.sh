#!/bin/sh
# Installs the Debian packages that a group of things needs, if any is missing:
#
#   tests/packages.sh demo    tests/demo.sh
#   tests/packages.sh bench   tests/bench/run.sh
#   tests/packages.sh install tests/install/run.sh
#   tests/packages.sh all     every test (the default)
#
# No service is started or restarted by this.
set -eu

usage() {
    echo "usage: tests/packages.sh [demo|bench|install|all]" >&2
    exit 2
}

# A package, and the file by which one sees that what it is needed for is there,
# or the module of Python.
# Not the package's own state: another variant of nginx does as well, and
# apt-get would remove it in favour of the one that is named here.
packages() {
    cat <<'END'
gcc          cc
libc6-dev    /usr/include/stdio.h
curl         curl
apache2-bin  /usr/sbin/apache2
END
    [ "$1" != demo ] || return 0
    case $1 in install | all)
        cat <<'END'
mmdebstrap              mmdebstrap
debian-archive-keyring  /usr/share/keyrings/debian-archive-keyring.gpg
iproute2                ip
END
        ;;
    esac
    [ "$1" != install ] || return 0
    cat <<'END'
nginx-light  /usr/sbin/nginx
fcgiwrap     /usr/sbin/fcgiwrap
php-cgi      php-cgi
END
    if [ "$1" = bench ]; then
        cat <<'END'
php-fpm      /usr/sbin/php-fpm*
php-curl     /usr/lib/php/*/curl.so
END
        return 0
    fi
    cat <<'END'
time             /usr/bin/time
strace           strace
systemd          systemd-analyze
mount            mount
python3          python3
chromium         chromium
chromium-driver  chromedriver
python3-venv     python3:ensurepip
nodejs           node
npm              npm
END
}

group=${1:-all}
case $group in
demo | bench | install | all) ;;
*) usage ;;
esac

is_there() {
    case $1 in
    # Versions are part of some names.
    *\**) ls $1 >/dev/null 2>&1 ;;
    /*) [ -e "$1" ] ;;
    python3:*) python3 -c "import ${1#python3:}" >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing=$(packages "$group" | while read -r package file; do
    is_there "$file" || echo "$package"
done | tr '\n' ' ')
[ -n "$missing" ] || exit 0

echo "missing packages: $missing" >&2
if ! command -v apt-get >/dev/null 2>&1; then
    echo "there is no apt-get here: please install what these Debian packages hold" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "neither root nor sudo: please run: apt-get install $missing" >&2
    exit 1
fi

# Packages of servers start them when they are installed, which we do not want
# and which fails in a container. This file tells them not to.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi

$as_root apt-get update -q
# The packages are words of their own.
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
    --no-install-recommends -o DPkg::Lock::Timeout=600 $missing
