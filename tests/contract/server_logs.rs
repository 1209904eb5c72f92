//! Contract section 5.5 and deploy/: no log of a web server holds a token, whatever becomes of the request, with the lines
//! on logs that `deploy/` ships.

use crate::fixture::*;
use std::time::Duration;
use support::eventually;
use support::http::{raw, Connection};
use support::webserver::{Kind, Setup, WebServer, ALL};

/// Servers whose logs an administrator can configure.
fn kinds() -> Vec<Kind> {
    ALL.into_iter().filter(|kind| !kind.is_rented()).collect()
}

/// Servers that wait a second for a request.
fn start(proxy: &Proxy, kind: Kind) -> WebServer {
    let directives = match kind {
        kind if kind.is_nginx() => "client_header_timeout 1s;",
        kind if kind.is_lighttpd() => "server.max-read-idle = 1",
        _ => "RequestReadTimeout header=1",
    };
    let setup = Setup { root: true, masked_log: true, directives: directives.into(), ..Setup::default() };
    WebServer::start_with(&proxy.sandbox, kind, &setup)
}

/// Addresses with a token in them, right and wrong, and the ways in which a server looks at them before it knows whose
/// they are.
fn addresses() -> Vec<String> {
    let long = "x".repeat(40_000);
    [
        "/rest/1/§/profile?auth=§".to_owned(),
        "/rest/api/1/§/profile".into(),
        "/cgi-bin/b24proxy/rest/1/§/no.such.method".into(),
        "//rest//1//§//profile".into(),
        "/%72est/1/§/profile".into(),
        "/acme.example.com/rest/1/§/profile".into(),
        "/§.com/rest/1/§/profile".into(),
        "/cgi-bin/b24proxy/acme.example.com/rest/1/§/profile".into(),
        // Parts forgotten, or in another order.
        "/rest/§".into(),
        "/rest/§/profile".into(),
        "/rest/§/1/profile".into(),
        "/rest/1/profile/§".into(),
        "/rest/1/§".into(),
        "/rest/1/§/".into(),
        "/rest/1/§/x/rest/1/2".into(),
        "/rest/1/2/rest/1/§/x".into(),
        "/cgi-bin/b24proxy/§".into(),
        "/cgi-bin/b24proxy§".into(),
        "/cgi-bin/b24proxy/rest/§".into(),
        "/cgi-bin/b24proxy/health/§".into(),
        "/cgi-bin/b24proxy?events=§".into(),
        "/cgi-bin/b24proxy/?events=§".into(),
        // Another case.
        "/REST/1/§/profile".into(),
        "/Rest/1/§/profile".into(),
        "/CGI-BIN/B24PROXY/REST/1/§/profile".into(),
        "/cgi-bin/B24proxy/rest/1/§/profile".into(),
        // Characters that a server refuses, merges or decodes.
        "/rest%2F1%2F§%2Fprofile".into(),
        "/rest/1%2fT/profile".into(),
        "/%2Frest/1/§/profile".into(),
        "/cgi-bin/b24proxy%2Frest/1/§/profile".into(),
        "/rest/1/§%00/profile".into(),
        "/%00/rest/1/§/profile".into(),
        "/rest/1/§/profile%0Ax".into(),
        "/rest/1%0A/§/profile".into(),
        "/%0Arest/1/§/profile".into(),
        "/rest/1/§/%zz".into(),
        "/rest/1/§/%".into(),
        "/rest/../rest/1/§/profile".into(),
        "/rest/1/§/../../../../x".into(),
        "/./rest/1/§/profile".into(),
        "/rest\\1\\§\\profile".into(),
        "/rest/1/§/\u{1}".into(),
        "/rest/1/§/ /profile".into(),
        "/rest;x/1/§/profile".into(),
        "http://localhost/rest/1/§/profile".into(),
        // Too long for the server, before and after the token.
        format!("/rest/1/§/profile?x={long}"),
        format!("/rest/1/§/{long}"),
        format!("/{long}/rest/1/§/profile"),
        format!("/rest/1/§/{}", "y".repeat(3000)),
        // What Bitrix24 brings, and the old proxies.
        "/cgi-bin/b24proxy?code=§&state=§".into(),
        "/cgi-bin/b24proxy/callback?code=§&state=§".into(),
        "/cgi-bin/b24proxy/?auth=§".into(),
        "/cgi-bin/b24proxy?token=§".into(),
        "/cgi-bin/b24proxy/file?portal=acme&address=https%3A%2F%2Facme%2Frest%2Fdownload.json%3Ftoken%3D§".into(),
        "/cgi-bin/b24proxy/install?portal=§".into(),
        "/elsewhere?x=/rest/1/§/profile".into(),
    ]
    .map(|address| address.replace('§', TOKEN))
    .to_vec()
}

/// Requests that are none, or that a server refuses for another reason than their address; one that ends early, too.
fn heads(port: u16) -> Vec<String> {
    let host = format!("Host: 127.0.0.1:{port}\r\nConnection: close\r\n");
    [
        "GET /rest/1/§/profile HTTP/1.1\r\nConnection: close\r\n\r\n".into(),
        format!("GET /rest/1/§/profile HTTP/9.9\r\n{host}\r\n"),
        "GET /rest/1/§/profile\r\n".into(),
        format!("GET /rest/1/§/profile HTTP/1.1\r\n{host}no colon §\r\n\r\n"),
        "GET /rest/1/§/profile HTTP/1.1\r\nHost: a b/§\r\nConnection: close\r\n\r\n".into(),
        format!("GET /rest/1/§/profile HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(40_000)),
        format!("POST /rest/1/§/profile HTTP/1.1\r\n{host}Content-Length: many\r\n\r\n"),
        format!("POST /rest/1/§/profile HTTP/1.1\r\n{host}Transfer-Encoding: §\r\n\r\n"),
        format!("POST /rest/1/§/profile HTTP/1.1\r\n{host}Content-Length: 99999999999999\r\n\r\n"),
        format!("POST /rest/1/§/profile HTTP/1.1\r\n{host}Content-Length: 100\r\n\r\ncut"),
        format!("/rest/1/§/profile HTTP/1.1\r\n{host}\r\n"),
        format!("§ /rest/1/§/profile HTTP/1.1\r\n{host}\r\n"),
        format!("GET /rest/1/2/profile HTTP/§\r\n{host}\r\n"),
        format!("GET /cgi-bin/b24proxy HTTP/1.1\r\n{host}Referer: https://x/rest/1/§/\r\n\r\n"),
        format!("GET /favicon.ico HTTP/1.1\r\n{host}Referer: https://x/cgi-bin/b24proxy?code=§\r\n\r\n"),
        format!("GET /cgi-bin/b24proxy HTTP/1.1\r\n{host}Authorization: Bearer §\r\n\r\n"),
        // Name and token of Basic, exchanged: TOKEN:x
        format!(
            "GET /cgi-bin/b24proxy HTTP/1.1\r\n{host}Authorization: Basic YS1jbGllbnQtdG9rZW4tZm9yLXRlc3RzOng=\r\n\r\n"
        ),
        format!("TRACE /rest/1/§/profile HTTP/1.1\r\n{host}\r\n"),
        format!("CONNECT /rest/1/§/profile HTTP/1.1\r\n{host}\r\n"),
        format!("PUT /rest/1/§/profile HTTP/1.1\r\n{host}\r\n"),
        "GET /rest/1/§/pro".into(),
    ]
    .map(|head| head.replace('§', TOKEN))
    .to_vec()
}

#[test]
fn no_log_of_a_web_server_holds_a_token_whatever_becomes_of_the_request() {
    // Beside each other: they wait for requests that do not come.
    std::thread::scope(|scope| {
        for kind in kinds() {
            scope.spawn(move || assert_no_log_holds_a_token(kind));
        }
    });
}

fn assert_no_log_holds_a_token(kind: Kind) {
    let mut proxy = Proxy::installed().reconfigured("max_wait = 5", "max_wait = 5\nmax_body = \"64 KiB\"");
    let own_log = proxy.sandbox.path().join("b24proxy/own.log");
    if kind.is_nginx() && kind.is_resident() {
        // What comes by FastCGI would be in nginx's error log, with the address.
        proxy = proxy.reconfigured("[log]", &format!("[log]\nfile = \"{}\"", own_log.display()));
    }
    let server = start(&proxy, kind);
    let mut seen = 0;
    let mut leaks = Vec::new();
    let mut look = |what: &str| {
        let logs = server.logs();
        let count = logs.matches(TOKEN).count();
        if count > seen {
            let at = logs.rfind(TOKEN).unwrap_or_default();
            let line = logs[..at].rfind('\n').map_or(0, |end| end + 1);
            leaks.push(format!("{what:.120} in {:.200}", &logs[line..]));
        }
        seen = count;
    };
    for address in addresses() {
        // A server may close the connection without an answer; it is in the logs all the same.
        let _ = server.request("GET", &address).try_send();
        let _ = server.request("POST", &address).json("{broken").try_send();
        look(&address);
    }
    for head in heads(server.port()) {
        let _ = raw(server.address(), head.as_bytes());
        look(&head);
    }
    let _ = server.request("POST", &format!("/rest/1/{TOKEN}/x")).json("x".repeat(70_000)).try_send();
    let late = ["GET /rest/1/§/pro", "GET /rest/1/§/profile HTTP/1.1\r\nHost: x\r\nX"].map(|part| {
        let mut connection = Connection::open(server.address(), Duration::from_secs(20)).unwrap();
        connection.send(part.replace('§', TOKEN).as_bytes()).unwrap();
        connection
    });
    for mut connection in late {
        // 408, or the end of the connection.
        let _ = connection.read_answer("GET");
    }
    look("a request whose end does not come");

    // What is no secret is written, so that there is something to look at.
    server.request("GET", &format!("/rest/1/{TOKEN}/profile")).send();
    server.request("GET", "/elsewhere/%D1%8F?q=1").send();
    let (log, written): (fn(&WebServer) -> String, _) = match kind {
        // One log for all, and nothing of an address in it.
        kind if kind.is_lighttpd() => (WebServer::access_log, ["\"GET -\" 200", "\"POST -\" 4", "\"GET -\" 404"]),
        _ => (WebServer::masked_log, ["\"GET /rest/1/***\" 200", "\"GET /rest/api/1/***\" 200", "\"- -\" 4"]),
    };
    eventually("calls and other requests are logged", || {
        server.access_log().contains("GET /elsewhere/%D1%8F?q=1") && written.iter().all(|w| log(&server).contains(w))
    });
    let own = server.error_log() + &std::fs::read_to_string(own_log).unwrap_or_default();
    // Apache escapes what comes by FastCGI.
    let is_there = own.contains("\"client\"") || own.contains("\\\"client\\\"");
    assert!(is_there && !own.contains(TOKEN), "{kind:?}: the program's own log is there: {own}");
    look("all of them");
    assert!(leaks.is_empty(), "{kind:?}: {leaks:#?}");
}

#[test]
fn a_program_that_cannot_be_reached_leaves_no_token_in_a_log() {
    let proxy = Proxy::installed();
    let server = start(&proxy, Kind::Nginx);
    let address = format!("/rest/1/{TOKEN}/profile");
    let fcgiwrap = server.process_groups()[1];
    let kill = format!("kill -s KILL -- -{fcgiwrap}");
    assert!(std::process::Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
    eventually("nobody listens", || server.request("GET", &address).send().status == 502);
    std::fs::remove_file(server.folder().join("b24proxy.socket")).unwrap();
    assert_eq!(server.request("GET", &address).send().status, 502);
    eventually("it is logged", || server.masked_log().contains("\"GET /rest/1/***\" 502"));
    assert!(!server.logs().contains(TOKEN), "{}", server.logs());
}
