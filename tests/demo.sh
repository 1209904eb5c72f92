#!/bin/sh
# Shows the main job from beginning to end: b24proxy under a real Apache is
# installed on a (simulated) Bitrix24 portal as an administrator would do it in a
# browser, and then creates a product for 1C. Exit status 0: the product exists.
set -eu
cd "$(dirname "$0")/.."

command -v cargo >/dev/null 2>&1 || PATH="$HOME/.cargo/bin:$PATH"
sh tests/packages.sh demo
cargo build --quiet --release --locked
cargo build --quiet --locked -p simulator -p support --bins
target=${CARGO_TARGET_DIR:-target}

work=$(mktemp -d /tmp/b24proxy-demo-XXXXXX)
chmod 755 "$work"
processes=
cleanup() {
    # shellcheck disable=SC2086
    [ -z "$processes" ] || kill $processes 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf '\nFAILED: %s\n' "$*" >&2
    for log in "$work"/*.log "$work"/site/run/web-0/error.log; do
        [ ! -s "$log" ] || { echo "--- $log"; cat "$log"; } >&2
    done
    exit 1
}

# Waits for the one line by which a server says where it is.
await_line() {
    tries=0
    until [ -s "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "no answer from $2"
        sleep 0.1
    done
}

# The value of a key in a line of JSON whose values are simple.
field() {
    sed -n 's/.*"'"$2"'":"\{0,1\}\([^",}]*\).*/\1/p' "$1"
}

say "Apache with deploy/apache/b24proxy.conf"
"$target/debug/webserver" apache --dir "$work/site" \
    --executable "$target/release/b24proxy" >"$work/web.json" 2>"$work/web.log" &
processes="$processes $!"
await_line "$work/web.json" Apache
url=$(field "$work/web.json" url)
config=$(field "$work/web.json" config)
echo "$url"

say "a Bitrix24 portal with its OAuth server (the simulator)"
"$target/debug/simulator" --http --redirect-uri "$url" --print-json \
    >"$work/simulator.json" 2>"$work/simulator.log" &
processes="$processes $!"
await_line "$work/simulator.json" "the simulator"
portal=$(field "$work/simulator.json" portal)
echo "$portal"

say "proxy.toml"
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
(umask 077 && cat >"$config" <<END)
[bitrix24]
client_id     = "$(field "$work/simulator.json" client_id)"
client_secret = "$(field "$work/simulator.json" client_secret)"
redirect_uri  = "$url"
oauth_server  = "$(field "$work/simulator.json" oauth_url)"
allow_http    = true

[portals."$portal"]

[storage]
path = "tokens"

[security]
auth_token = "$token"
END
chown --reference="$(dirname "$config")" "$config"
cat "$config"

say "the administrator opens $url/install?portal=$portal"
curl --silent --show-error --max-time 60 --location --max-redirs 5 \
    --cookie-jar "$work/cookies" --cookie "$work/cookies" \
    --dump-header "$work/headers" --output "$work/page" \
    "$url/install?portal=$portal" || fail "the browser's way broke off"
tr -d '\r' <"$work/headers" |
    sed -n -e 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' \
        -e 's/^[Ll]ocation: \([^?]*\).*/    -> \1/p'
status=$(sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' "$work/headers" | tail -n 1)
sed -e '/<style/,/<\/style>/d' -e '/<title>/d' -e 's/<[^>]*>/ /g' -e 's/&#34;/"/g' \
    -e '/^[[:space:]]*$/d' "$work/page"
echo
[ "$status" = 200 ] || fail "the installation ended with $status"

say "1C posts"
name="Demonstration product $$"
request='{"domain":"'$portal'","method":"catalog.product.add","params":{"fields":{"iblockId":15,"name":"'$name'"}}}'
echo "POST $url"
echo "Authorization: Bearer $token"
echo "$request"
status=$(curl --silent --show-error --max-time 60 \
    --header "Authorization: Bearer $token" --header "Content-Type: application/json" \
    --data-binary "$request" --output "$work/answer" --write-out '%{http_code}' "$url") ||
    fail "no answer"

say "b24proxy answers $status"
cat "$work/answer"
echo
[ "$status" = 200 ] || fail "the call ended with $status"
grep -q '^{"success":true,' "$work/answer" || fail "no success"

# The portal itself is asked, by its own webhook and past b24proxy.
id=$(sed -n 's/.*"element":{[^}]*"id":\([0-9]*\).*/\1/p' "$work/answer")
curl --silent --show-error --max-time 60 --output "$work/product" \
    "$(field "$work/simulator.json" webhook_url)catalog.product.get?id=$id" ||
    fail "the portal does not answer"
say "the portal has product $id"
cat "$work/product"
echo
grep -q "\"name\":\"$name\"" "$work/product" || fail "the product was not created"
