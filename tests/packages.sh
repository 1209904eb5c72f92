#!/bin/sh
# Installs the Debian packages that a group of things needs, if any is missing:
#
#   tests/packages.sh demo    tests/demo.sh
#   tests/packages.sh bench   tests/bench/run.sh
#   tests/packages.sh install tests/install/run.sh
#   tests/packages.sh quick   tests/run.sh quick
#   tests/packages.sh long    tests/run.sh long
#   tests/packages.sh all     every test (the default)
#
# No service is started or restarted by this.
set -eu

usage() {
    echo "usage: tests/packages.sh [demo|bench|install|quick|long|all]" >&2
    exit 2
}

# A package, the file by which one sees that what it is needed for is there, or
# the module of Python, and the groups that need it. rust: where Rust has no musl.
# Not the package's own state: another variant of nginx does as well, and
# apt-get would remove it in favour of the one that is named here.
packages() {
    cat <<'END'
gcc                     cc                      demo bench install quick long all
libc6-dev               /usr/include/stdio.h    demo bench install quick long all
apache2-bin             /usr/sbin/apache2       demo bench install quick long all
curl                    curl                    demo bench install long all
mmdebstrap              mmdebstrap              install all
debian-archive-keyring  /usr/share/keyrings/debian-archive-keyring.gpg  install all
iproute2                ip                      install all
libapache2-mod-security2  /usr/lib/apache2/modules/mod_security2.so  quick long all
libapache2-mod-fcgid    /usr/lib/apache2/modules/mod_fcgid.so  quick long all
nginx-light             /usr/sbin/nginx         bench quick long all
lighttpd                /usr/sbin/lighttpd      quick long all
fcgiwrap                /usr/sbin/fcgiwrap      bench quick long all
php-cgi                 php-cgi                 bench all
php-fpm                 /usr/sbin/php-fpm*      bench
php-curl                /usr/lib/php/*/curl.so  bench
libapache2-mod-fcgid    /usr/lib/apache2/modules/mod_fcgid.so  bench
openssl                 openssl                 quick long all
pgbouncer               /usr/sbin/pgbouncer     bench quick long all
mariadb-client-core     /usr/bin/mariadb        bench quick long all
mariadb-server-core     /usr/sbin/mariadbd      bench quick long all
postgresql-15           /usr/lib/postgresql/*/bin/initdb  bench quick long all
time                    /usr/bin/time           quick long all
systemd                 systemd-analyze         quick long all
strace                  strace                  quick long all
mount                   mount                   long all
python3                 python3                 bench install long all
dpkg                    dpkg-deb                bench install long all
fakeroot                fakeroot                all
chromium                chromium                all
chromium-driver         chromedriver            all
python3-venv            python3:ensurepip       bench install long all
binutils                readelf                 long all
qemu-user               qemu-aarch64            long all
rustc-web               rust:/usr/bin/rustc     bench install long all
cargo-web               rust:/usr/bin/cargo     bench install long all
rust-web-src            rust:/usr/lib/rustlib/src/rust/library/std/Cargo.toml  bench install long all
nodejs                  node                    all
npm                     npm                     all
END
}

group=${1:-all}
case $group in
demo | bench | install | quick | long | all) ;;
*) usage ;;
esac

is_there() {
    case $1 in
    # Versions are part of some names.
    *\**) ls $1 >/dev/null 2>&1 ;;
    /*) [ -e "$1" ] ;;
    # What a Rust that has musl does not need.
    rust:*) [ -e "${1#rust:}" ] || sh deploy/release/musl.sh ;;
    python3:*) python3 -c "import ${1#python3:}" >/dev/null 2>&1 ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing=$(packages | while read -r package file groups; do
    case " $groups " in
    *" $group "*) is_there "$file" || echo "$package" ;;
    esac
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
