//! The portal's web server is reloaded under load: connections that are kept are closed by it at any moment.

use crate::fixture::{unix_now, Proxy};
use crate::served::Served;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{eventually, number, signal, Group};

/// nginx with TLS before the simulator's portal, and a proxy that knows the portal by that address.
struct Fronted {
    nginx: Group,
    proxy: Proxy,
}

impl Fronted {
    fn with(reuse: &str) -> Fronted {
        let proxy = Proxy::installed();
        let theirs = proxy.portal().name();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (host, _) = theirs.rsplit_once(':').expect("a port");
        let name = format!("{host}:{port}");
        let (certificate, key) = proxy.simulator.certificate_pem();
        proxy.sandbox.write("run/front.pem", 0o644, certificate.as_bytes());
        proxy.sandbox.write("run/front.key", 0o600, key.as_bytes());
        let folder = proxy.sandbox.path().join("run").display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|of| format!("{of}_temp_path {folder}/{of};"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 2; pid {folder}/front.pid; error_log {folder}/front.log;
             events {{ worker_connections 512; }}
             http {{ {temporary} access_log off; keepalive_requests 100000;
               server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/front.pem; ssl_certificate_key {folder}/front.key;
                 location / {{ proxy_pass https://{theirs}; proxy_set_header Host {theirs}; }} }} }}"
        );
        proxy.sandbox.write("run/front.conf", 0o644, config.as_bytes());
        let mut command = proxy.sandbox.command("/usr/sbin/nginx");
        command.args(["-e", &format!("{folder}/front.log"), "-p", &folder, "-c", &format!("{folder}/front.conf")]);
        let nginx = Group::start(command).expect("nginx (tests/packages.sh)");
        eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let text = proxy
            .config()
            .replace(&theirs, &name)
            .replace("aliases = [\"acme\"]", "aliases = [\"acme\"]\nrequests_per_second = 100000\nburst = 100000");
        let mut tokens = proxy.stored();
        tokens["client_endpoint"] = format!("https://{name}/rest/").into();
        tokens["expires_at"] = (unix_now() + 3600).into();
        proxy.sandbox.write_token_file(&format!("{}.json", name.replace(':', "_")), &tokens.to_string());
        let proxy = proxy.configured(&format!("{text}\n[fastcgi]\nreuse = \"{reuse}\"\n"));
        // A configuration that is young is read anew for each request.
        std::thread::sleep(Duration::from_millis(2100));
        Fronted { nginx, proxy }
    }

    /// Four callers while nginx is reloaded so often; the calls and how each ended, by its number.
    fn loaded(&self, method: &str, reloads: u64) -> BTreeMap<u64, (u16, Value)> {
        let served = Served::by(&self.proxy, 4);
        let (next, end) = (AtomicU64::new(0), Instant::now() + Duration::from_millis(500 * (reloads + 1)));
        let answers = std::sync::Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while Instant::now() < end {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        let answered = served.call(method, json!({"n": n}));
                        let executed = answered.json()["executed"].clone();
                        answers.lock().unwrap().insert(n, (answered.status, executed));
                    }
                });
            }
            for _ in 0..reloads {
                std::thread::sleep(Duration::from_millis(500));
                signal(self.nginx.id(), "HUP");
            }
        });
        answers.into_inner().unwrap()
    }
}

fn reloads() -> u64 {
    number("B24PROXY_RESIDENT_RELOADS").unwrap_or(6)
}

#[test]
fn while_the_portals_web_server_is_reloaded_no_call_is_executed_twice_and_what_is_lost_is_unknown() {
    let fronted = Fronted::with("always");
    let answers = fronted.loaded("sim.echo", reloads());
    let lost: Vec<_> = answers.values().filter(|(status, _)| *status != 200).collect();
    println!("{} calls on kept connections, {} reloads: {} lost", answers.len(), reloads(), lost.len());
    assert!(answers.len() > 500, "{}", answers.len());
    for (status, executed) in &lost {
        assert_eq!((*status, executed), (502, &"unknown".into()));
    }
    assert!(lost.len() as u64 <= 4 * reloads(), "no more than there are connections: {}", lost.len());
    let mut executed = BTreeMap::<u64, u32>::new();
    for entry in fronted.proxy.simulator.ledger().of_method("sim.echo") {
        *executed.entry(entry.call().unwrap().params["n"].as_u64().unwrap()).or_default() += 1;
    }
    for (n, (status, _)) in &answers {
        let times = executed.get(n).copied().unwrap_or(0);
        assert!(if *status == 200 { times == 1 } else { times <= 1 }, "{n}: {status}, executed {times} times");
    }
}

#[test]
fn while_the_portals_web_server_is_reloaded_reading_loses_nothing() {
    let fronted = Fronted::with("always");
    let answers = fronted.loaded("crm.deal.list", reloads());
    println!("{} reading calls, {} reloads", answers.len(), reloads());
    let lost: Vec<_> = answers.values().filter(|(status, _)| *status != 200).collect();
    assert_eq!(lost, Vec::<&(u16, Value)>::new());
}

#[test]
fn with_reuse_never_a_reload_of_the_portals_web_server_loses_nothing() {
    let fronted = Fronted::with("never");
    let answers = fronted.loaded("sim.echo", reloads());
    println!("{} calls on new connections, {} reloads", answers.len(), reloads());
    let lost: Vec<_> = answers.values().filter(|(status, _)| *status != 200).collect();
    assert_eq!(lost, Vec::<&(u16, Value)>::new());
}
