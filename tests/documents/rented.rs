//! What the documents say of rented web space: how it goes wrong, and what helps without a shell.

use crate::fixture::*;
use crate::markdown::Document;
use std::fs;
use std::process::Stdio;
use support::webserver::{Kind, WebServer};
use support::Sandbox;

const PATH: &str = "/cgi-bin/b24proxy";

/// A site whose only configuration of the web server is the shipped `.htaccess`.
fn site() -> (Proxy, WebServer) {
    let proxy = Proxy::installed();
    let server = WebServer::start(&proxy.sandbox, Kind::ApacheHtaccess);
    (proxy, server)
}

#[test]
fn without_htaccess_health_is_404_and_the_executable_is_downloaded() {
    let page = Document::load("docs/troubleshooting.md");
    let rows = page.table(&["you see", "cause", "cure"]);
    for (seen, status) in [("404 for `/health`", 404), ("the executable is downloaded", 200)] {
        let row =
            rows.iter().find(|row| row.cells[0] == seen).unwrap_or_else(|| panic!("{} has no row {seen}", page.name));
        assert!(row.cells[1].starts_with("`.htaccess` is not there"), "{} line {}", page.name, row.line);
        let (proxy, server) = site();
        fs::remove_file(proxy.sandbox.path().join("htdocs/cgi-bin/.htaccess")).expect("it was there");
        let path = if status == 404 { format!("{PATH}/health") } else { PATH.to_owned() };
        let answer = server.request("GET", &path).send();
        assert_eq!(answer.status, status, "{seen}: {:.200}", answer.text());
        assert_eq!(answer.body.starts_with(b"\x7fELF"), status == 200, "{seen}");
    }
}

#[test]
fn check_on_another_machine_asks_the_web_server_and_finds_no_proxy_toml() {
    let readme = Document::load("README.md").text();
    assert!(readme.contains("on any other Linux machine"));
    let (_proxy, server) = site();
    let elsewhere = Sandbox::new();
    let mut command = elsewhere.command_line(&["check", "--json", "--url", &server.url(PATH)]);
    let output = command.stdin(Stdio::null()).output().expect("the executable starts");
    let lines: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let bad = |status: &str| -> Vec<&str> {
        let of = lines.iter().filter(|line| line["status"] == status);
        of.map(|line| line["check"].as_str().expect("a name")).filter(|name| *name != "executable").collect()
    };
    assert_eq!((bad("fail"), bad("warn")), (vec!["configuration"], vec![]), "{lines:#?}");
    for name in ["web server", "path", "Authorization", "body", "privacy"] {
        assert!(lines.iter().any(|line| line["check"] == name && line["status"] == "ok"), "{name}: {lines:#?}");
    }
}
