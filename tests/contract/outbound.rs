//! Contract section 1, `proxy`: everything goes through the configured HTTP proxy, and what fails there is told as its.

use crate::fixture::*;
use crate::tls::{bitrix24, self_signed};
use base64::prelude::{Engine, BASE64_STANDARD};
use serde_json::json;
use simulator::Options;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use support::cgi::Answer;

const USER: &str = "user";
const PASSWORD: &str = "pa:ss w/rd@home";
const WRITTEN: &str = "user:pa%3Ass%20w%2Frd%40home";

/// What the proxy does with a CONNECT.
#[derive(Clone, Copy)]
pub enum Way {
    /// To this port of this machine, whatever was asked for.
    To(u16),
    /// To where it was asked.
    Open,
    /// These names to these ports of this machine; others to where it was asked.
    Map([(&'static str, u16); 2]),
    Says(&'static str),
    /// Accepts, and says nothing.
    Mute,
}

/// A proxy, until the test's process ends.
pub struct HttpProxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl HttpProxy {
    pub fn start(ip: &str, way: Way) -> HttpProxy {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let proxy = HttpProxy { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = proxy.seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || connected(stream, way, &seen));
            }
        });
        proxy
    }

    /// The heads of all requests.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub fn line(&self, user: &str) -> String {
        let at = if user.is_empty() { "" } else { "@" };
        format!("proxy = \"http://{user}{at}{}\"", self.address)
    }
}

/// Host and port of a CONNECT.
pub fn asked(head: &str) -> String {
    head.split(' ').nth(1).unwrap().to_owned()
}

fn connected(mut stream: TcpStream, way: Way, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(head.clone());
    let target = match way {
        Way::Says(answer) => return drop(stream.write_all(answer.as_bytes())),
        Way::Mute => return std::thread::sleep(std::time::Duration::from_secs(30)),
        Way::To(port) => format!("127.0.0.1:{port}"),
        Way::Open => asked(&head),
        Way::Map(names) => {
            let asked = asked(&head);
            let mapped = names.iter().find(|(name, _)| asked.strip_suffix(":443") == Some(*name));
            mapped.map_or(asked, |(_, port)| format!("127.0.0.1:{port}"))
        }
    };
    let upstream = TcpStream::connect(target).unwrap();
    stream.write_all(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n").unwrap();
    join(stream, upstream);
}

fn with_proxy(proxy: Proxy, line: &str) -> Proxy {
    proxy.reconfigured("connect_timeout = 3", &format!("connect_timeout = 3\n{line}"))
}

#[track_caller]
fn assert_no_password(text: &str) {
    for password in [PASSWORD, WRITTEN, &BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"))] {
        assert!(!text.contains(password), "{text}");
    }
}

#[test]
fn a_portal_whose_name_only_the_proxy_knows_is_called_through_it() {
    let identity = self_signed(|parameters| {
        let names = rcgen::CertificateParams::new(vec!["portal.invalid".to_owned()]).unwrap();
        parameters.subject_alt_names = names.subject_alt_names;
    });
    let outbound = HttpProxy::start("127.0.0.1", Way::To(bitrix24(&identity)));
    let proxy = Proxy::with(Options::default());
    proxy.sandbox.write("b24proxy/ca.pem", 0o600, identity.chain.as_bytes());
    let proxy = proxy.configured(&format!(
        "[bitrix24]\nca_file = \"ca.pem\"\n{}\n[portals.\"portal.invalid\"]\n\
         webhook = \"https://portal.invalid/rest/1/c0dec0dec0de/\"\n[security]\nauth_token = \"{TOKEN}\"\n",
        outbound.line(WRITTEN)
    ));
    let answer = proxy.request(r#"{"method":"profile"}"#).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = outbound.seen();
    assert_eq!(seen.len(), 1);
    let mut lines = seen[0].lines();
    assert_eq!(lines.next(), Some("CONNECT portal.invalid:443 HTTP/1.1"));
    assert_eq!(lines.next(), Some("Host: portal.invalid:443"));
    let basic = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    assert!(seen[0].contains(&format!("\r\nProxy-Authorization: Basic {basic}\r\n")), "{}", seen[0]);
    // The proxy sees a name and nothing more.
    assert!(!seen[0].contains("c0dec0de") && !seen[0].contains(TOKEN), "{}", seen[0]);
    assert_no_password(&format!("{}{}", answer.text(), answer.stderr));
}

#[test]
fn calls_refreshes_files_and_check_all_go_through_the_proxy() {
    for ip in ["127.0.0.1", "::1"] {
        if TcpListener::bind((ip, 0)).is_err() {
            continue;
        }
        let outbound = HttpProxy::start(ip, Way::Open);
        let proxy = with_proxy(Proxy::not_installed(), &outbound.line(WRITTEN));
        proxy.store_expired_pair(&proxy.portal().issue_pair(1));
        let (portal, oauth) = (proxy.portal().name(), proxy.simulator.oauth_url());
        let targets = || {
            let seen = outbound.seen();
            seen.iter().map(|head| asked(head)).collect::<Vec<_>>()
        };
        // Those of the environment are not even asked.
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let foreign = format!("http://{}", stranger.local_addr().unwrap());
        let body = json!({"domain": portal, "method": "sim.echo", "params": {"said": PASSWORD}}).to_string();
        let mut request = proxy.request(body);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"] {
            request = request.env(name, &foreign);
        }
        let answer = request.run();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(targets(), [oauth.trim_start_matches("https://"), &portal]);
        // Whoever repeats the password has its name shown.
        assert_eq!(answer.json()["data"]["result"]["said"], name_of(PASSWORD));
        assert_no_password(&format!("{}{}", answer.text(), answer.stderr));
        stranger.set_nonblocking(true).unwrap();
        assert!(stranger.accept().is_err());

        let ledger = proxy.simulator.ledger();
        let last = ledger.last_call().unwrap();
        assert_eq!(last.header("Proxy-Authorization"), None);
        drop(ledger);

        let before = outbound.seen().len();
        let address = format!("https://{portal}/rest/download?token=made%20up");
        let query = format!("portal={portal}&address={}", address.replace('%', "%25").replace('?', "%3F"));
        let answer = proxy.get("/file").query(&query).bearer(TOKEN).run();
        assert_eq!(outbound.seen().len(), before + 1, "{}", answer.text());

        let before = outbound.seen().len();
        let check = proxy.sandbox.command_line(&["check"]).output().unwrap();
        // Lines of the terminal are broken.
        let check = String::from_utf8_lossy(&check.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(check.contains(&format!("through {}", outbound.address)), "{check}");
        assert!(check.contains("answers as Bitrix24"), "{check}");
        assert_no_password(&check);
        assert!(outbound.seen().len() >= before + 2, "{check}");
        // Nobody came by another way.
        assert_eq!(proxy.simulator.ledger().all_connections(), outbound.seen().len() as u64);
    }
}

#[test]
fn plain_http_goes_through_it_by_connect_too() {
    let outbound = HttpProxy::start("127.0.0.1", Way::Open);
    let proxy = with_proxy(Proxy::with(Options { https: false, ..Options::default() }), &outbound.line(""));
    proxy.store_pair(&proxy.portal().issue_pair(1));
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert_eq!(outbound.seen().len(), 1);
    assert!(outbound.seen()[0].starts_with(&format!("CONNECT {} HTTP/1.1\r\n", proxy.portal().name())));
    assert!(!outbound.seen()[0].contains("Authorization"), "{}", outbound.seen()[0]);
}

fn add_with_key(proxy: &Proxy) -> Answer {
    let body = json!({"domain": proxy.portal().name(), "method": "crm.deal.add", "params": {}});
    proxy.request(body.to_string()).header("Idempotency-Key", "one").run()
}

/// What is said in a call of a proxy that gives no connection, and by `check`; nothing was executed, and the key is free.
#[track_caller]
fn assert_told(line: &str, place: &str, words: &str) {
    let proxy = with_proxy(Proxy::installed(), line);
    let answer = add_with_key(&proxy);
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert_eq!(answer.json()["executed"], "no", "{}", answer.text());
    let text = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(text.contains(&format!("the proxy {place}")) && text.contains(words), "{words}: {text}");
    assert!(text.contains("[bitrix24] proxy"), "{text}");
    let check = proxy.sandbox.command_line(&["check", "--json"]).output().unwrap();
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains(words), "{words}: {check}");
    assert_no_password(&format!("{}{}{check}", answer.text(), answer.stderr));
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
    let proxy = proxy.reconfigured(line, "");
    assert_eq!(add_with_key(&proxy).status, 200);
}

#[test]
fn what_the_proxy_does_is_told_as_the_proxys_and_nothing_was_sent() {
    const BASIC: &str =
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"user:pa:ss w/rd@home\"\r\n\
                         Content-Length: 0\r\n\r\n";
    const NTLM: &str = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM\r\n\r\n";
    for (way, user, words) in [
        (Way::Says(BASIC), "", "asks for a user and a password (407)"),
        (Way::Says(BASIC), WRITTEN, "does not accept this user and password (407)"),
        (Way::Says(NTLM), WRITTEN, "another authorization than Basic"),
        (Way::Says("HTTP/1.1 403 Forbidden\r\n\r\n"), WRITTEN, "does not allow this connection (403)"),
        (Way::Says("HTTP/1.0 503 Service Unavailable\r\n\r\n<html>"), "", "does not reach the host (503)"),
        (Way::Says("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"), "", "answers status 200"),
        (Way::Says("SSH-2.0-OpenSSH_9.2p1\r\n\r\n"), "", "does not answer as an HTTP proxy"),
        (Way::Says(""), WRITTEN, "closed the connection"),
        (Way::Mute, WRITTEN, "does not answer in time"),
    ] {
        let outbound = HttpProxy::start("127.0.0.1", way);
        assert_told(&outbound.line(user), &outbound.address.to_string(), words);
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_told_as_that() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_told(&format!("proxy = \"http://{WRITTEN}@{closed}\""), &closed.to_string(), "connection refused");
    assert_told("proxy = \"http://no-such-proxy.invalid:3128\"", "no-such-proxy.invalid:3128", "cannot be reached");
}

#[test]
fn an_address_that_is_no_http_proxy_is_refused_without_showing_its_password() {
    for (address, words) in [
        (format!("https://{WRITTEN}@proxy.lan:3128"), "write http://"),
        (format!("socks5://{WRITTEN}@proxy.lan:1080"), "SOCKS"),
        (format!("{WRITTEN}@proxy.lan:3128"), "must begin with http://"),
        (format!("http://{USER}:{PASSWORD}@proxy.lan:3128"), "%2F for /"),
        (format!("http://{WRITTEN}@proxy.lan:port"), "a host and a port"),
        ("http://user:…@proxy.lan:3128".to_owned(), "sample"),
        (String::new(), "must begin with http://"),
    ] {
        let proxy = with_proxy(Proxy::installed(), &format!("proxy = \"{address}\""));
        let answer = proxy.request(r#"{"method":"profile"}"#).run();
        assert_failure(&answer, 500, "configuration_error");
        assert!(
            answer.stderr.contains("[bitrix24] proxy") && answer.stderr.contains(words),
            "{address}: {}",
            answer.stderr
        );
        assert_no_password(&format!("{}{}", answer.text(), answer.stderr));
    }
}
