//! The shipped web server configurations, with a script in place of `b24proxy`
//! that answers its environment, its arguments and the body.

use support::webserver::{Kind, WebServer, CGI};
use support::{eventually, Sandbox};

const MIRROR: &str = r#"#!/bin/sh
printf 'Status: 222 Mirror\r\nContent-Type: text/x-mirror\r\n\r\n'
env
for argument in "$@"; do echo "argument=$argument"; done
echo "from the program" >&2
printf 'body='
cat
"#;

/// Runs a test under every kind of web server.
fn under_every_server(script: &str, test: impl Fn(&WebServer)) {
    for kind in CGI {
        let sandbox = Sandbox::with_script(script);
        let server = WebServer::start(&sandbox, kind);
        test(&server);
        drop(server);
        assert_eq!(sandbox.processes(), [0; 0], "{kind:?} left processes behind");
    }
}

/// Checks that the mirror's answer has this line.
#[track_caller]
fn has_line(server: &WebServer, text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{:?}: no line {line:?} in\n{text}", server.kind());
}

#[test]
fn the_path_after_the_programs_name_is_path_info() {
    under_every_server(MIRROR, |server| {
        let path = "/cgi-bin/b24proxy/rest/1/token/crm.lead.add.json?a=b%20c&d";
        let answer = server.request("GET", path).send();
        assert_eq!(answer.status, 222, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/x-mirror"));
        let text = answer.text();
        has_line(server, &text, "GATEWAY_INTERFACE=CGI/1.1");
        has_line(server, &text, "SCRIPT_NAME=/cgi-bin/b24proxy");
        has_line(server, &text, "PATH_INFO=/rest/1/token/crm.lead.add.json");
        has_line(server, &text, "QUERY_STRING=a=b%20c&d");
        has_line(server, &text, &format!("REQUEST_URI={path}"));
        has_line(server, &text, "REMOTE_ADDR=127.0.0.1");
    });
}

#[test]
fn the_program_itself_is_found_without_a_path() {
    under_every_server(MIRROR, |server| {
        for path in ["/cgi-bin/b24proxy", "/cgi-bin/b24proxy?check+now"] {
            let answer = server.request("GET", path).send();
            assert_eq!(answer.status, 222, "{}", answer.text());
            has_line(server, &answer.text(), "SCRIPT_NAME=/cgi-bin/b24proxy");
        }
    });
}

#[test]
fn authorization_and_other_headers_arrive_and_proxy_does_not() {
    under_every_server(MIRROR, |server| {
        let answer = server
            .request("GET", "/cgi-bin/b24proxy/")
            .bearer("secret+/=")
            .header("Idempotency-Key", "k 1")
            .header("X-B24proxy-Token", "other")
            .header("Proxy", "http://evil.example/")
            .send();
        let text = answer.text();
        has_line(server, &text, "HTTP_AUTHORIZATION=Bearer secret+/=");
        has_line(server, &text, "HTTP_IDEMPOTENCY_KEY=k 1");
        has_line(server, &text, "HTTP_X_B24PROXY_TOKEN=other");
        assert!(!text.contains("evil"), "{:?}: {text}", server.kind());
    });
}

#[test]
fn bodies_arrive_with_and_without_a_length() {
    under_every_server(MIRROR, |server| {
        let post = || server.request("POST", "/cgi-bin/b24proxy/");
        let answer = post().json("{\"a\": 1}").send();
        has_line(server, &answer.text(), "CONTENT_LENGTH=8");
        has_line(server, &answer.text(), "CONTENT_TYPE=application/json");
        has_line(server, &answer.text(), "body={\"a\": 1}");

        let answer = post().chunked(&["one ", "two ", "three"]).send();
        has_line(server, &answer.text(), "body=one two three");
    });
}

/// mod_cgi and mod_cgid pass the whole body on before they read the answer.
#[test]
fn sixteen_mebibytes_arrive_at_a_program_that_reads_before_it_answers() {
    const SIZE: &str = "#!/bin/sh
size=$(wc -c)
printf 'Content-Type: text/plain\\n\\n%s' \"$size\"
";
    under_every_server(SIZE, |server| {
        let post = || server.request("POST", "/cgi-bin/b24proxy/");
        let answer = post().body(vec![b'x'; 16 << 20]).send();
        assert_eq!(answer.text(), "16777216", "{:?}", server.kind());
        let answer = post().chunked(&vec![vec![b'x'; 1 << 20]; 16]).send();
        assert_eq!(answer.text(), "16777216", "{:?}", server.kind());
    });
}

#[test]
fn a_body_above_what_the_shipped_configuration_allows_is_refused_by_the_web_server() {
    under_every_server(MIRROR, |server| {
        // As long as a file may be; nginx knows files from calls, of which it takes 17 MiB.
        let longest: u64 = match server.kind() {
            Kind::Nginx => 17 << 20,
            _ => (2 << 30) + (1 << 20),
        };
        let announced = (longest + 1).to_string();
        let answer = server.request("POST", "/cgi-bin/b24proxy/").header("Content-Length", &announced).send();
        assert_eq!(answer.status, 413, "{:?}", server.kind());
    });
}

#[test]
fn what_the_program_logs_is_in_the_error_log() {
    under_every_server(MIRROR, |server| {
        server.request("GET", "/cgi-bin/b24proxy/").send();
        let log = server.error_log();
        assert!(log.contains("from the program"), "{log}");
        // nginx leaves the program's requests out and lighttpd their addresses, as the shipped configuration says.
        let logged = !matches!(server.kind(), Kind::Nginx | Kind::Lighttpd);
        server.request("GET", "/elsewhere").send();
        eventually("the last request is in the access log", || server.access_log().contains("GET /elsewhere"));
        assert_eq!(server.access_log().contains("GET /cgi-bin/b24proxy/"), logged, "{:?}", server.kind());
    });
}

#[test]
fn neither_configuration_nor_tokens_are_handed_out() {
    for kind in CGI {
        let sandbox = Sandbox::with_script(MIRROR);
        let server = WebServer::start(&sandbox, kind);
        let folder = match kind {
            Kind::ApacheHtaccess => "htdocs/cgi-bin",
            _ => "cgi-bin",
        };
        sandbox.make_folder(&format!("{folder}/tokens"), 0o755);
        for name in [
            "proxy.toml",
            "proxy.toml~",
            ".proxy.toml.swp",
            "tokens/acme.bitrix24.ru.json",
            "tokens/acme.bitrix24.ru.json.removed",
            "tokens/acme.bitrix24.ru.lock",
            "tokens/half-written",
            ".htaccess",
        ] {
            if name != ".htaccess" {
                sandbox.write(&format!("{folder}/{name}"), 0o644, b"secret");
            }
            let path = format!("/cgi-bin/{name}");
            let answer = server.request("GET", &path).send();
            assert!(matches!(answer.status, 403 | 404), "{kind:?} answers {} to {path}", answer.status);
        }
        let answer = server.request("GET", "/cgi-bin/b24proxyfoo").send();
        assert_eq!(answer.status, 404, "{kind:?}");
    }
}

#[test]
fn a_stopped_server_takes_programs_along_that_detached_themselves() {
    const DETACHED: &str = "#!/bin/sh
setsid sh -c 'touch detached; exec sleep 600' </dev/null >/dev/null 2>&1 &
while [ ! -e detached ]; do sleep 0.01; done
printf 'Content-Type: text/plain\\n\\n'
";
    for kind in CGI {
        let sandbox = Sandbox::with_script(DETACHED);
        let folder = sandbox.path().to_owned();
        let server = WebServer::start(&sandbox, kind);
        server.request("GET", "/cgi-bin/b24proxy/").send();
        server.stop();
        assert_eq!(sandbox.processes().len(), 1, "{kind:?}");
        drop(sandbox);
        assert!(!folder.exists());
    }
}
