# What becomes of the package; a part of inside.sh. Nothing of the administrator's is lost but by purging.

apt() {
    inside env DEBIAN_FRONTEND=noninteractive "$@" >"$root/tmp/step.log" 2>&1 </dev/null || fail "$*"
}

case $server in
Apache) changed=/etc/apache2/conf-available/b24proxy.conf ;;
nginx) changed=/etc/nginx/snippets/b24proxy.conf ;;
esac
echo "# by hand" >>"$root$changed"
before=$(cd "$root" && sha256sum ".$changed" etc/b24proxy/proxy.toml && ls -ln etc/b24proxy etc/b24proxy/tokens)

# Put where it was, as by an update.
apt dpkg --install "/root/b24proxy/$package"
after=$(cd "$root" && sha256sum ".$changed" etc/b24proxy/proxy.toml && ls -ln etc/b24proxy etc/b24proxy/tokens)
[ "$before" = "$after" ] || fail "an update changes what is the administrator's: $before, then $after"
all_is_well "updated"

apt apt-get remove --yes b24proxy
[ ! -e "$root/usr/lib/cgi-bin/b24proxy" ] || fail "it is removed, and the program is there"
[ -s "$root/etc/b24proxy/proxy.toml" ] && [ -d "$root/etc/b24proxy/tokens" ] || fail "it is removed, and so is what it kept"
apt apt-get purge --yes b24proxy
[ ! -e "$root/etc/b24proxy" ] || fail "it is purged, and /etc/b24proxy is there"
[ ! -e "$root$changed" ] || fail "it is purged, and $changed is there"
ok "an update and removing leave configuration and tokens, purging does not"
