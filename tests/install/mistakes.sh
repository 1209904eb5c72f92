# The mistakes that people make, one at a time; a part of inside.sh. Each must be
# one FAIL of check, and what it says, followed literally, must mend it.

# The one thing to do that is printed: what stands behind "->".
one_cure() {
    [ "$code" = 1 ] || fail "$1: check ended with $code"
    says "$2"
    [ "$(grep -c '^FAIL' "$root/tmp/step.log")" = 1 ] || fail "$1: more than one FAIL: $(cat "$root/tmp/step.log")"
    cure=$(sed -n '/^FAIL/,/^[a-z]/s/^ *-> //p' "$root/tmp/step.log" | head -n 1)
}

# A command, typed as root.
mends() {
    what=$1 words=$2
    check
    one_cure "$what" "$words"
    printf '%s\n' "$cure" >"$root/tmp/cure.sh"
    inside sh -eu /tmp/cure.sh >"$root/tmp/cure.log" 2>&1 </dev/null || fail "$what: $cure: $(cat "$root/tmp/cure.log")"
    all_is_well "$what, and then: $cure"
}

control() {
    curl --silent --fail --output /dev/null --data "$2" "$control/$1" || fail "the simulator does not take $1"
}

inside chown -R root: /etc/b24proxy
mends "everything is root's" "user: proxy.toml and the token folder are root's"
inside chown root: /etc/b24proxy/proxy.toml
mends "proxy.toml is root's" "configuration: /etc/b24proxy/proxy.toml cannot be read"
inside chmod 644 /etc/b24proxy/proxy.toml
mends "proxy.toml can be read by everybody" "configuration: /etc/b24proxy/proxy.toml can be read or written by others"
inside touch /etc/b24proxy/tokens/left.lock
mends "root's file in the token folder" "token folder: /etc/b24proxy/tokens/left.lock belongs to root"
inside rm /etc/b24proxy/tokens/left.lock
inside chown root: /etc/b24proxy/tokens
mends "the token folder is root's" "token folder: "

# Somebody else, who is told the command with sudo, which is not in the root.
cat >"$root/usr/local/bin/sudo" <<'END'
#!/bin/sh
[ "$1" = -u ] || exit 1
user=$2
shift 2
exec setpriv --reuid="$user" --regid="$user" --clear-groups -- "$@"
END
chmod 755 "$root/usr/local/bin/sudo"
code=0
inside setpriv --reuid=nobody --regid=nogroup --clear-groups -- sh -eu /tmp/check.sh >"$root/tmp/step.log" 2>&1 || code=$?
one_cure "a foreign user" "user: /etc/b24proxy/proxy.toml and the token folder are www-data's"
[ "$cure" = "sudo -u www-data $(cat "$root/tmp/check.sh")" ] || fail "a foreign user is told: $cure"
cp "$root/tmp/check.sh" "$root/tmp/kept.sh"
printf '%s\n' "$cure" >"$root/tmp/check.sh"
all_is_well "a foreign user, and then: $cure"
cp "$root/tmp/kept.sh" "$root/tmp/check.sh"

# A sample, and a redirect_uri that leads elsewhere.
cp "$toml" "$root/tmp/kept.toml"
secret=$(sed -n 's/^client_secret *= *//p' "$toml")
sed 's|^client_secret .*|client_secret = "…"|' "$root/tmp/kept.toml" >"$toml"
check_names "a sample is left" "configuration: /etc/b24proxy/proxy.toml: [bitrix24] client_secret is still the sample"
[ "$(grep -c '^FAIL' "$root/tmp/step.log")" = 1 ] || fail "a sample is left: more than one FAIL"
sed "s|^client_secret .*|client_secret = $secret|" "$toml" >"$root/tmp/toml"
cat "$root/tmp/toml" >"$toml"
all_is_well "the sample is replaced"
sed "s|^redirect_uri .*|redirect_uri = \"https://$host/cgi-bin/bitrix\"|" "$root/tmp/kept.toml" >"$toml"
check
one_cure "a wrong redirect_uri" "redirect_uri: is https://$host/cgi-bin/bitrix, where the program does not answer"
line=$(tr -s '\n ' '  ' <"$root/tmp/step.log" | sed -n 's/.* write \(redirect_uri = "[^"]*"\).*/\1/p')
[ -n "$line" ] || fail "a wrong redirect_uri: no line to write"
sed "s|^redirect_uri .*|$line|" "$toml" >"$root/tmp/toml"
cat "$root/tmp/toml" >"$toml"
all_is_well "a wrong redirect_uri, and then: $line"

# What the portal does.
control revoke '{"access":true,"refresh":true}'
check
one_cure "revoked tokens" "$portal: the stored tokens are dead"
address=$(grep -o "https://$host/[^ ]*/install?portal=[^ ]*" "$root/tmp/step.log" | head -n 1)
[ -n "$address" ] || fail "revoked tokens: no address to install"
status=$(browse --location --max-redirs 5 --cookie-jar /tmp/cookies --cookie /tmp/cookies \
    --output /tmp/page --write-out '%{http_code}' "$address") || fail "the installation broke off"
[ "$status" = 200 ] || fail "the installation ended with $status: $(cat "$root/tmp/page")"
all_is_well "revoked tokens, and then: open $address"
control set '{"payment_required":true}'
control expire '{}'
# Asked before check says what time it is in the OAuth server's place.
inside /usr/lib/cgi-bin/b24proxy status >"$root/tmp/step.log" 2>&1 && fail "status says that all is well"
tr -s '\n ' '  ' <"$root/tmp/step.log" | grep -q 'PAYMENT_REQUIRED.*renew the licence' || fail "status does not say why"
control set '{"payment_required":false}'
sleep 11
inside /usr/lib/cgi-bin/b24proxy status >"$root/tmp/step.log" 2>&1 || fail "the licence is renewed, and status fails"
ok "an expired licence, and then: renewed"
all_is_well "an expired licence"

# What the web server does.
case $server in
Apache)
    inside systemctl stop apache2
    mends "Apache is stopped" "web server: $host refuses the connection: is Apache running?"
    inside a2disconf -q b24proxy
    restart apache2
    mends "a2enconf is forgotten" "web server: Apache does not use b24proxy.conf"
    inside a2dismod -q cgid
    restart apache2
    mends "a2enmod is forgotten" "web server: Apache has no module that runs CGI programs"
    inside a2dismod -q cgid
    inside a2disconf -q b24proxy
    restart apache2
    mends "both are forgotten" "web server: Apache has no module that runs CGI programs, and does not use b24proxy.conf"
    ;;
nginx)
    inside systemctl stop nginx
    mends "nginx is stopped" "web server: $host refuses the connection: is nginx running?"
    inside systemctl stop b24proxy.socket
    mends "b24proxy.socket is stopped" "web server: got no answer from the program (502)"
    ;;
esac
