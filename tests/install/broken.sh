# What people break, the mistakes that they make, and the logs; a part of inside.sh.

# What people break.
case $server in
Apache)
    inside a2enmod -q headers >/dev/null
    echo 'RequestHeader unset Authorization' >"$root/etc/apache2/conf-enabled/broken.conf"
    ;;
nginx)
    cp "$root/etc/nginx/snippets/b24proxy.conf" "$root/tmp/kept.conf"
    sed -i 's|^    fastcgi_param  HTTP_PROXY .*|&\n    fastcgi_param  HTTP_AUTHORIZATION "";|' \
        "$root/etc/nginx/snippets/b24proxy.conf"
    ;;
esac
restart $service
check_names "Authorization stripped" \
    "Authorization: the web server keeps the Authorization header from the program"

moved=/var/www/html/proxy.toml
inside mv /etc/b24proxy/proxy.toml $moved
inside cp /etc/b24proxy/ca.pem /var/www/html/ca.pem
case $server in
Apache) echo "SetEnv B24PROXY_CONFIG $moved" >"$root/etc/apache2/conf-enabled/broken.conf" ;;
nginx)
    sed "s|^    fastcgi_param  HTTP_PROXY .*|&\n    fastcgi_param  B24PROXY_CONFIG $moved;|" \
        "$root/tmp/kept.conf" >"$root/etc/nginx/snippets/b24proxy.conf"
    ;;
esac
restart $service
check_names "proxy.toml in the document root" \
    "web server: runs the program, but as the web server's user it cannot use its configuration" env B24PROXY_CONFIG=$moved
says "privacy: "
ok "proxy.toml in the document root: check says: FAIL privacy"
inside mv $moved /etc/b24proxy/proxy.toml
case $server in
Apache) rm "$root/etc/apache2/conf-enabled/broken.conf" ;;
nginx) cp "$root/tmp/kept.conf" "$root/etc/nginx/snippets/b24proxy.conf" ;;
esac
restart $service

all_is_well "mended"
. "$here/mistakes.sh"

# The lines on logs that the shipped files offer, in each host.
case $server in
Apache)
    sed -n -E 's/^#   ((CustomLog|LogLevel|ErrorLogFormat) .*)/    \1/p' \
        "$root/root/b24proxy/deploy/apache/b24proxy.conf" >"$root/tmp/lines"
    sed -i "/^    ServerName/r $root/tmp/lines" "$root/etc/apache2/sites-available/000-default.conf"
    log=/var/log/apache2/b24proxy.log
    ;;
nginx)
    cp "$root/root/b24proxy/deploy/nginx/b24proxy-log.conf" "$root/etc/nginx/conf.d/"
    sed -n -E 's/^#   ((access_log|log_not_found) .*)/    \1/p' \
        "$root/etc/nginx/conf.d/b24proxy-log.conf" >"$root/tmp/lines"
    sed -i "/^    server_name/r $root/tmp/lines" "$root/etc/nginx/sites-available/default"
    sed -i -e '/^    access_log off;$/d' -e 's/^    # \(access_log .*\)/    \1/' "$root/etc/nginx/snippets/b24proxy.conf"
    log=/var/log/nginx/b24proxy.log
    ;;
esac
restart $service
long=$(head -c 20000 /dev/zero | tr '\0' x)
for path in "/cgi-bin/b24proxy/rest/1/$token/profile" "/cgi-bin/b24proxy/rest/$token/profile" "/rest%2F1%2F$token" \
    "/REST/1/$token/profile" "/cgi-bin/b24proxy?code=$token" "/rest/1/$token/%zz" "/rest/1/$token/profile?x=$long"; do
    for scheme in http https; do
        browse --output /dev/null "$scheme://$host$path" || :
    done
done
grep -q -F '"GET /rest/1/***"' "$root$log" || fail "$log does not have the call"
leaking=$(grep -r -l -F "$token" "$root/var/log") && fail "the token is in $leaking"
ok "no token in a log, and GET /rest/1/*** in $log"
