//! Contract section 1, `connect_timeout`: names whose addresses do not answer, and name servers that do not. What a name
//! means is decided by a library that is loaded into the executable.

use crate::fixture::*;
use rustix::net::{bind, connect, listen, socket, AddressFamily, SocketType};
use serde_json::json;
use simulator::{Options, PortalOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::cgi::{Answer, Cgi};

const LOOKUP: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char addresses[200];
__attribute__((constructor)) static void begin(void) { strncpy(addresses, getenv("ADDRESSES"), 199); }
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **all) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (strcmp(host, "localhost")) return real(host, port, hints, all);
    if (!strcmp(addresses, "never")) sleep(600);
    if (!strcmp(addresses, "again")) return EAI_AGAIN;
    struct addrinfo numeric = *hints, **end = all;
    numeric.ai_flags = AI_NUMERICHOST;
    char list[200], *rest = list, *address;
    strcpy(list, addresses);
    while ((address = strsep(&rest, ","))) {
        if (real(address, port, &numeric, end)) return EAI_NONAME;
        while (*end) end = &(*end)->ai_next;
    }
    return 0;
}
"#;

/// The library, built once for each sandbox.
fn lookup(proxy: &Proxy) -> PathBuf {
    let library = proxy.sandbox.path().join("run/lookup.so");
    if !library.exists() {
        proxy.sandbox.write("run/lookup.c", 0o644, LOOKUP.as_bytes());
        let source = library.with_extension("c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
        assert!(built.is_ok_and(|status| status.success()), "cc of the Debian package gcc");
    }
    library
}

fn named() -> Proxy {
    let portal = PortalOptions { host: "localhost".into(), ..PortalOptions::default() };
    let proxy = Proxy::with(Options { portal, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy
}

fn call(proxy: &Proxy, addresses: &str) -> Answer {
    let meant = |request: Cgi<'_>| request.env("LD_PRELOAD", lookup(proxy)).env("ADDRESSES", addresses).as_cgi().run();
    let params = json!({"domain": proxy.portal().name(), "method": "crm.deal.add", "params": {}});
    meant(proxy.request(params.to_string()))
}

fn port_of(proxy: &Proxy) -> u16 {
    proxy.portal().name().rsplit(':').next().unwrap().parse().unwrap()
}

/// An address at which nothing answers for as long as what is returned lives: its queue is full. `None`: the machine has no
/// such address.
fn silence(ip: &str, port: u16) -> Option<impl Sized> {
    let address: SocketAddr = (ip.parse::<std::net::IpAddr>().unwrap(), port).into();
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let listener = socket(family, SocketType::STREAM, None).ok()?;
    bind(&listener, &address).ok()?;
    listen(&listener, 0).ok()?;
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket(family, SocketType::STREAM, None).unwrap();
            rustix::io::ioctl_fionbio(&socket, true).unwrap();
            let _ = connect(&socket, &address);
            socket
        })
        .collect();
    Some((listener, waiting))
}

#[test]
fn an_address_that_does_not_answer_costs_each_call_a_quarter_of_a_second() {
    let proxy = named();
    let port = port_of(&proxy);
    let (_two, _three) = (silence("127.0.0.2", port).unwrap(), silence("127.0.0.3", port).unwrap());
    let six = silence("::1", port);
    for (addresses, pauses) in [
        ("127.0.0.1", 0),
        ("127.0.0.2,127.0.0.1", 1),
        ("127.0.0.2,127.0.0.3,127.0.0.1", 2),
        // A refusal is an answer.
        ("127.0.0.4,127.0.0.1", 0),
        // However many of its addresses do not answer, a family costs one pause.
        ("::1,::1,::1,127.0.0.1", 1),
    ] {
        if addresses.contains("::1") && six.is_none() {
            continue;
        }
        let (least, most) = (250 * pauses, 250 * pauses + 450);
        let took = || {
            let before = proxy.simulator.ledger().executed("crm.deal.add");
            let answer = call(&proxy, addresses);
            assert_eq!(answer.status, 200, "{addresses}: {}", answer.text());
            assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), before + 1, "{addresses}");
            let took = answer.elapsed.as_millis();
            assert!(took >= least, "{addresses}: {took} ms");
            took
        };
        // Other tests may take the CPUs for a while.
        assert!((0..3).any(|_| took() < most), "{addresses}: {most} ms and more");
    }
}

#[test]
fn the_same_holds_for_the_oauth_server() {
    let proxy = Proxy::installed();
    let oauth = proxy.simulator.oauth_url();
    let port = oauth.rsplit(':').next().unwrap().parse().unwrap();
    let _two = silence("127.0.0.2", port).unwrap();
    let proxy = proxy.reconfigured(&oauth, &oauth.replace("127.0.0.1", "localhost"));
    let started = std::time::Instant::now();
    let mut check = proxy.sandbox.command_line(&["check"]);
    let output = check.env("LD_PRELOAD", lookup(&proxy)).env("ADDRESSES", "127.0.0.2,127.0.0.1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("ok    OAuth server: localhost"), "{text}");
    // Of the tests' databases it says that they are not durable.
    assert!(output.status.success() || proxy.sandbox.database().is_some(), "{text}");
    assert!(started.elapsed() < Duration::from_millis(1200), "{:?}", started.elapsed());
}

#[test]
fn connect_timeout_bounds_looking_up_all_addresses_and_tls_together() {
    let proxy = named();
    let port = port_of(&proxy);
    let _two = silence("127.0.0.2", port).unwrap();
    // Accepts, and says nothing.
    let mute = std::net::TcpListener::bind(("127.0.0.3", port)).unwrap();
    for addresses in ["never", "127.0.0.2", "127.0.0.2,127.0.0.2,127.0.0.2", "127.0.0.3", "127.0.0.2,127.0.0.3"] {
        let answer = call(&proxy, addresses);
        assert_failure(&answer, 504, "bitrix24_timeout");
        assert_eq!(answer.json()["executed"], "no", "{addresses}");
        // connect_timeout is 3 s.
        assert!((2900..4000).contains(&answer.elapsed.as_millis()), "{addresses}: {:?}", answer.elapsed);
    }
    drop(mute);
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_name_server_that_does_not_answer_is_told_from_a_name_that_does_not_exist() {
    let proxy = named();
    let answer = call(&proxy, "again");
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert!(answer.text().contains("no name server answers"), "{}", answer.text());
    assert_eq!(answer.json()["executed"], "no");
    let answer = call(&proxy, "no number");
    assert!(answer.text().contains("not known"), "{}", answer.text());
}
