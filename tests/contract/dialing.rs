//! Contract section 1, `connect_timeout`: names whose addresses do not answer, and name servers that do not. What a name
//! means is decided by `/etc/hosts` and a name server of each test.

use crate::fixture::*;
use rustix::net::{bind, connect, listen, socket, AddressFamily, SocketType};
use serde_json::json;
use simulator::{Options, PortalOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use support::cgi::Answer;

/// Where the portal and the OAuth server are as well: farther from every address here than those beside it, so that it comes
/// last, as systems order the addresses of a name (RFC 6724, rule 9).
const REAL: &str = "127.200.0.1";

/// What `localhost` means to a program.
#[derive(Debug)]
enum Meaning {
    /// By `/etc/hosts`: these addresses.
    Addresses(&'static str),
    /// By a name server that answers with this code (RFC 1035).
    Refused(u8),
    /// By a name server that never answers.
    Never,
}

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// From here on each process of this proxy has an `/etc` of its own, with what there names mean.
fn mean(proxy: &Proxy, meaning: &Meaning) {
    // musl asks again, until its time is over, where a name server says that it cannot tell.
    let (hosts, server, options) = match meaning {
        Meaning::Addresses(all) => {
            (all.split(',').map(|ip| format!("{ip} localhost\n")).collect(), name_server(None), "")
        }
        Meaning::Refused(code) => (String::new(), name_server(Some(*code)), "options timeout:2 attempts:1\n"),
        Meaning::Never => (String::new(), name_server(None), ""),
    };
    let sandbox = &proxy.sandbox;
    let etc = sandbox.path().join("etc");
    if !etc.exists() {
        sandbox.make_folder("etc", 0o755);
        sandbox.write("etc/host.conf", 0o644, b"multi on\n");
        sandbox.write("etc/nsswitch.conf", 0o644, b"hosts: files dns\n");
        let own = format!("exec unshare -rm /bin/sh -c 'mount --bind {} /etc && exec \"$0\" \"$@\"'", etc.display());
        sandbox.run_behind(&format!("{own} {{}}"));
    }
    sandbox.write("etc/hosts", 0o644, hosts.as_bytes());
    sandbox.write("etc/resolv.conf", 0o644, format!("nameserver {server}\n{options}").as_bytes());
}

/// Where one answers, or is silent, until the tests end.
fn name_server(code: Option<u8>) -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, of_process, _] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 53, of_process, NEXT.fetch_add(1, Ordering::SeqCst));
    let socket = UdpSocket::bind((ip, 53)).expect("a name server's port is root's");
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if let Some(code) = code {
                // An answer to the question, with recursion.
                (question[2], question[3]) = (question[2] | 0x80, 0x80 | code);
                let _ = socket.send_to(&question[..length], from);
            }
        }
    });
    ip.into()
}

/// The same server at [`REAL`].
fn forward(port: u16) {
    let listener = TcpListener::bind((REAL, port)).expect("a loopback address");
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            std::thread::spawn(move || join(near, far));
        }
    });
}

fn named() -> Proxy {
    let portal = PortalOptions { host: "localhost".into(), ..PortalOptions::default() };
    let proxy = Proxy::with(Options { portal, ..Options::default() });
    proxy.store_pair(&proxy.portal().issue_pair(1));
    proxy
}

fn call(proxy: &Proxy, meaning: Meaning) -> Answer {
    mean(proxy, &meaning);
    let params = json!({"domain": proxy.portal().name(), "method": "crm.deal.add", "params": {}});
    proxy.request(params.to_string()).as_cgi().run()
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
    forward(port);
    for (addresses, pauses) in [
        ("127.200.0.1", 0),
        ("127.0.0.2,127.200.0.1", 1),
        ("127.0.0.2,127.0.0.3,127.200.0.1", 2),
        // A refusal is an answer.
        ("127.0.0.4,127.200.0.1", 0),
        // However many of its addresses do not answer, a family costs one pause.
        ("::1,::1,::1,127.200.0.1", 1),
    ] {
        if addresses.contains("::1") && six.is_none() {
            continue;
        }
        let (least, most) = (250 * pauses, 250 * pauses + 450);
        let took = || {
            let before = proxy.simulator.ledger().executed("crm.deal.add");
            let answer = call(&proxy, Meaning::Addresses(addresses));
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
    forward(port);
    mean(&proxy, &Meaning::Addresses("127.0.0.2,127.200.0.1"));
    let started = std::time::Instant::now();
    let output = proxy.sandbox.command_line(&["check"]).output().unwrap();
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
    let addresses = ["127.0.0.2", "127.0.0.2,127.0.0.2,127.0.0.2", "127.0.0.3", "127.0.0.2,127.0.0.3"];
    for meaning in addresses.map(Meaning::Addresses).into_iter().chain([Meaning::Never]) {
        let what = format!("{meaning:?}");
        let answer = call(&proxy, meaning);
        assert_failure(&answer, 504, "bitrix24_timeout");
        assert_eq!(answer.json()["executed"], "no", "{what}");
        // connect_timeout is 3 s.
        assert!((2900..4000).contains(&answer.elapsed.as_millis()), "{what}: {:?}", answer.elapsed);
    }
    drop(mute);
    assert_eq!(proxy.simulator.ledger().all_connections(), 0);
}

#[test]
fn a_name_server_that_does_not_answer_is_told_from_a_name_that_does_not_exist() {
    let proxy = named();
    let answer = call(&proxy, Meaning::Refused(SERVFAIL));
    assert_failure(&answer, 502, "bitrix24_unreachable");
    assert!(answer.text().contains("no name server answers"), "{}", answer.text());
    assert_eq!(answer.json()["executed"], "no");
    let answer = call(&proxy, Meaning::Refused(NXDOMAIN));
    assert!(answer.text().contains("not known"), "{}", answer.text());
}
