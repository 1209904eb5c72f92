#!/bin/sh
# The part of run.sh for one server, in namespaces of its own:
#   inside.sh Apache|nginx "package"|"single file" ROOT SIMULATOR
set -eu
server=$1 how=$2 root=$3 simulator=$4
here=$(dirname "$0")
section="$server, with the $how"
host=www.acme.test
url=https://$host/cgi-bin/b24proxy
control=http://127.0.0.1:8003

ok() {
    echo "ok  $section: $*"
}

fail() {
    echo "FAILED: $section: $*" >&2
    for log in "$root"/tmp/step.log "$root"/var/log/apache2/error.log "$root"/var/log/nginx/error.log \
        "$root"/var/log/b24proxy.log; do
        [ ! -s "$log" ] || { echo "--- ${log#"$root"}"; tail -n 30 "$log"; } >&2
    done
    exit 1
}

inside() {
    chroot "$root" env -i HOME=/root LC_ALL=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# A block of README.md's section for this server, or of another document's, in the project's folder.
type_block() {
    sh "$here/readme.sh" "${2:-README.md}" "${3:-$section}" "$1" >"$root/tmp/block.sh"
    inside sh -c 'cd /root/b24proxy && exec sh -eu /tmp/block.sh' >"$root/tmp/step.log" 2>&1 </dev/null ||
        fail "the commands of ${2:-README.md} failed: $(cat "$root/tmp/block.sh")"
    while read -r line; do
        ok "$line"
    done <"$root/tmp/block.sh"
}

restart() {
    inside systemctl restart "$1" >"$root/tmp/step.log" 2>&1 </dev/null || fail "$1 does not start"
}

browse() {
    inside curl --silent --show-error --max-time 60 --cacert /etc/b24proxy/ca.pem "$@" 2>"$root/tmp/step.log"
}

# check --url, as README.md has it. Bitrix24's OAuth server says what time it is,
# the simulator does not by itself; only check asks it meanwhile.
check() {
    date=$(LC_ALL=C date -u '+%a, %d %b %Y %H:%M:%S GMT')
    head="HTTP/1.1 400 Bad Request\\r\\nDate: $date\\r\\nContent-Type: application/json\\r\\nContent-Length: 27"
    body='{\"error\":\"invalid_request\"}'
    curl --silent --fail --output /dev/null "$control/fault" --data \
        '{"target":"token","action":"raw","times":1,"body":"'"$head\\r\\nConnection: close\\r\\n\\r\\n$body"'"}' ||
        fail "the simulator's control listener does not answer"
    code=0
    inside "$@" sh -eu /tmp/check.sh >"$root/tmp/step.log" 2>&1 || code=$?
    curl --silent --fail --output /dev/null --data '{}' "$control/clear_faults"
}

# check must end with 1 and say this, from the word FAIL on (lines are wrapped).
check_names() {
    what=$1 words=$2
    shift 2
    check "$@"
    [ "$code" = 1 ] || fail "$what: check ended with $code"
    says "$words"
    ok "$what: check says: FAIL $words"
}

says() {
    tr -s '\n ' '  ' <"$root/tmp/step.log" | grep -q -F "FAIL $1" || fail "check does not say \"FAIL $1\""
}

all_is_well() {
    check
    [ "$code" = 0 ] && grep -q '^All is well' "$root/tmp/step.log" && ! grep -q '^warn' "$root/tmp/step.log" ||
        fail "$1: check does not say that all is well"
    ok "$1: b24proxy check --url $url: $(grep -c '^ok' "$root/tmp/step.log") lines, all ok"
}

ip link set lo up
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
echo "127.0.0.1 localhost $host" >"$root/etc/hosts"
cp "$here/systemctl" "$root/usr/local/bin/systemctl"
chmod 755 "$root/usr/local/bin/systemctl"
cp "$here/socket.pl" "$root/usr/local/lib/"

# The host as README.md takes it for granted: https, and http leads to it.
inside sh -eu >"$root/tmp/step.log" 2>&1 <<END || fail "no certificate"
mkdir -p /etc/ssl/private && cd /tmp
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=Test authority" -keyout ca.key -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj "/CN=$host" -keyout /etc/ssl/private/site.key -out site.csr
printf 'subjectAltName=DNS:$host\n' >site.ext
openssl x509 -req -in site.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile site.ext -out /etc/ssl/certs/site.pem
END
case $server in
Apache)
    cat >"$root/etc/apache2/sites-available/000-default.conf" <<END
<VirtualHost *:80>
    ServerName $host
    Redirect permanent / https://$host/
</VirtualHost>
<VirtualHost *:443>
    ServerName $host
    DocumentRoot /var/www/html
    SSLEngine on
    SSLCertificateFile /etc/ssl/certs/site.pem
    SSLCertificateKeyFile /etc/ssl/private/site.key
</VirtualHost>
END
    inside a2enmod -q ssl >/dev/null
    service=apache2 last=2
    ;;
nginx)
    cat >"$root/etc/nginx/sites-available/default" <<END
server {
    listen 80;
    server_name $host;
    return 301 https://$host\$request_uri;
}
server {
    listen 443 ssl;
    server_name $host;
    ssl_certificate /etc/ssl/certs/site.pem;
    ssl_certificate_key /etc/ssl/private/site.key;
    root /var/www/html;
}
END
    service=nginx last=3
    ;;
esac
restart $service
ok "https://$host is served"

"$simulator" --host localhost --oauth-port 8001 --portal-port 8002 --control-port 8003 \
    --redirect-uri "$url" --client-id local.test.1 --client-secret simulated-secret-of-the-test \
    --ca-file "$root/tmp/simulator.pem" >"$root/tmp/simulator.json" 2>&1 &
tries=0
until grep -q '}' "$root/tmp/simulator.json" 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail "the simulator does not start"
    sleep 0.1
done
portal=$(sed -n 's/.*"portal":"\([^"]*\)".*/\1/p' "$root/tmp/simulator.json")
oauth=$(sed -n 's/.*"oauth_url":"\([^"]*\)".*/\1/p' "$root/tmp/simulator.json")

# README.md's first block: everything up to proxy.toml.
type_block 1
if [ "$server" = nginx ]; then
    grep -q '^ *include snippets/b24proxy.conf;$' README.md || fail "README.md does not say what to include"
    sed -i 's|^    root .*|&\n    include snippets/b24proxy.conf;|' "$root/etc/nginx/sites-available/default"
    type_block 2
fi

# "Write proxy.toml": what is marked in the example, and where the simulator is.
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
toml=$root/etc/b24proxy/proxy.toml
[ -s "$toml" ] || fail "README.md's commands made no /etc/b24proxy/proxy.toml"
cat "$root/tmp/ca.pem" "$root/tmp/simulator.pem" >"$root/etc/b24proxy/ca.pem"
chmod 644 "$root/etc/b24proxy/ca.pem"
# In place, as an editor that keeps owner and mode.
sed -e 's|^client_id .*|client_id = "local.test.1"|' \
    -e 's|^client_secret .*|client_secret = "simulated-secret-of-the-test"|' \
    -e "s|^redirect_uri .*|redirect_uri = \"$url\"|" \
    -e "s|^#oauth_server .*|oauth_server = \"$oauth\"|" \
    -e 's|^#ca_file .*|ca_file = "ca.pem"|' \
    -e "s|^\[portals\.\"….bitrix24.ru\"\]|[portals.\"$portal\"]|" \
    -e "s|^auth_token .*|auth_token = \"$token\"|" "$toml" >"$root/tmp/toml"
cat "$root/tmp/toml" >"$toml"
ok "/etc/b24proxy/proxy.toml is filled in"

answer=$(browse "$url/health") || fail "no answer from $url/health"
[ "$answer" = '{"status":"ok"}' ] || fail "$url/health answers $answer"
ok "GET /health: $answer"

status=$(browse --location --max-redirs 5 --cookie-jar /tmp/cookies --cookie /tmp/cookies \
    --output /tmp/page --write-out '%{http_code}' "$url/install?portal=$portal") || fail "the installation broke off"
[ "$status" = 200 ] || fail "the installation ended with $status: $(cat "$root/tmp/page")"
ok "GET /install?portal=$portal: installed"

request='{"domain":"'$portal'","method":"catalog.product.add","params":{"fields":{"iblockId":15,"name":"Product"}}}'
answer=$(browse --header "Authorization: Bearer $token" --data-binary "$request" "$url") || fail "no answer to a call"
case $answer in
'{"success":true,'*) ok "a call of 1C: {\"success\":true,…" ;;
*) fail "a call answers $answer" ;;
esac

# README.md's last block for this server.
sh "$here/readme.sh" README.md "$section" "$last" | sed "s/www\.example\.com/$host/" >"$root/tmp/check.sh"
grep -q 'check --url' "$root/tmp/check.sh" || fail "README.md does not end in check --url"
all_is_well "installed"

[ "$how" = package ] || . "$here/broken.sh"

# Resident, as its page says.
type_block 1 docs/fastcgi.md
all_is_well "resident"
grep -l -z -x worker "$root"/proc/[0-9]*/cmdline >/dev/null 2>&1 || fail "no process of the program stays"
leaking=$(grep -r -l -F "$token" "$root/var/log") && fail "resident: the token is in $leaking"
ok "the program stays, and no token is in a log"

[ "$how" = "single file" ] || . "$here/packaged.sh"
