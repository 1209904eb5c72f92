//! Contract section 9: two nodes that share a database, and what it does to them.

use crate::fixture::*;
use serde_json::{json, Value};
use simulator::{Action, Fault, Target};
use std::time::{Duration, Instant, SystemTime};
use support::cgi::{Answer, Cgi};
use support::database::{kind, shared, Kind, Server, PASSWORD};
use support::{eventually, signal, Sandbox};

const LONG: Duration = Duration::from_secs(10);
const ADD: &str = r#"{"method":"crm.deal.add"}"#;

/// A node and another one beside it, with a token folder and a configuration of its own.
fn two_nodes(server: &'static Server) -> (Proxy, Sandbox) {
    let (aliases, fast) = ("aliases = [\"acme\"]", "requests_per_second = 100\nburst = 250");
    let proxy = Proxy::not_installed().on_database(server.database());
    let proxy = proxy.reconfigured(aliases, &format!("{aliases}\n{fast}"));
    proxy.portal().set_bucket(100.0, 250.0);
    let other = Sandbox::new();
    other.write("b24proxy/ca.pem", 0o600, proxy.simulator.ca_pem().as_bytes());
    other.write_config(proxy.config());
    (proxy, other)
}

/// A server of this test's own, which it may kill.
fn own() -> &'static Server {
    Box::leak(Box::new(Server::start(kind())))
}

fn add(node: &Sandbox) -> Cgi<'_> {
    Cgi::new(node).method("POST").json(ADD).bearer(TOKEN)
}

#[track_caller]
fn assert_works(node: &Sandbox) {
    let answer = add(node).run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
}

fn refreshers(node: &Sandbox) -> Vec<u32> {
    let refreshes = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"refresher")
    };
    node.processes().into_iter().filter(refreshes).collect()
}

fn files(node: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(node.tokens()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_hundred_callers_on_two_nodes_at_postgresql_that_find_the_token_expired_cause_one_refresh_and_no_token_stays_there()
{
    a_hundred_callers(Kind::Postgres);
}

#[test]
fn a_hundred_callers_on_two_nodes_at_mariadb_that_find_the_token_expired_cause_one_refresh_and_no_token_stays_there() {
    a_hundred_callers(Kind::MySql);
}

/// As CGI on one node, by FastCGI on the other.
fn a_hundred_callers(kind: Kind) {
    let (proxy, other) = two_nodes(shared(kind));
    for round in 1..=2 {
        match round {
            1 => proxy.store_expired_pair(&proxy.portal().issue_pair(1)),
            _ => proxy.portal().expire_access_tokens(),
        }
        proxy.simulator.clear_ledger();
        if round == 2 {
            // Within five minutes only what Bitrix24 says counts.
            proxy.change_stored(|tokens| tokens["refreshed_at"] = json!(unix_now() - 1000));
        }
        std::thread::scope(|scope| {
            for i in 0..100 {
                let request = if i % 2 == 0 { add(&proxy.sandbox).as_cgi() } else { add(&other).as_resident() };
                scope.spawn(move || {
                    let answer = request.run();
                    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
                });
            }
        });
        let ledger = proxy.simulator.ledger();
        assert_eq!((ledger.refreshes(), ledger.spent_presented()), (1, 0), "round {round}");
        assert_eq!(ledger.executed("crm.deal.add"), 100);
    }
    for node in [&proxy.sandbox, &other] {
        eventually("the refresher has ended", || refreshers(node).is_empty());
        let kept = node.tokens().join(format!("{}.kept", proxy.stem()));
        if let Ok(file) = std::fs::File::options().append(true).open(kept) {
            file.set_modified(SystemTime::now() - Duration::from_secs(3601)).unwrap();
        }
        assert_works(node);
        assert_eq!(files(node), [format!("{}.lock", proxy.stem())]);
        let lock = std::fs::read_to_string(node.tokens().join(format!("{}.lock", proxy.stem()))).unwrap();
        assert!(lock.trim().parse::<i64>().is_ok(), "nothing but the lease's number: {lock}");
    }
}

#[test]
fn a_node_that_dies_in_a_refresh_blocks_others_for_ten_seconds_at_most() {
    let (proxy, other) = two_nodes(shared(kind()));
    proxy.store_expired_pair(&proxy.portal().issue_pair(1));
    proxy.simulator.inject(Fault::once(Target::Token, Action::Hang));
    let mut request = add(&proxy.sandbox).content_length(Some(ADD.len())).as_cgi().spawn();
    request.write(ADD.as_bytes()).unwrap();
    assert!(proxy.simulator.wait_hanging(1, LONG));
    // It is renewed for as long as it works.
    std::thread::sleep(Duration::from_secs(8));
    let died = Instant::now();
    for refresher in refreshers(&proxy.sandbox) {
        signal(refresher, "KILL");
    }
    request.signal_group("KILL");
    request.wait_for_end();
    assert_failure(&add(&other).run(), 503, "refresh_pending");
    let mut answer = add(&other).run();
    while answer.status == 503 {
        answer = add(&other).run();
    }
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert!(died.elapsed() < Duration::from_secs(12), "{:?}", died.elapsed());
    assert_eq!(proxy.simulator.ledger().spent_presented(), 0);
    assert_works(&proxy.sandbox);
}

#[test]
fn a_pair_that_came_while_the_database_was_away_is_stored_by_the_nodes_next_run() {
    let server = own();
    let (proxy, other) = two_nodes(server);
    let old = proxy.portal().issue_pair(1);
    proxy.store_expired_pair(&old);
    proxy.simulator.inject(Fault::once(Target::Token, Action::HangAfter));
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| add(&proxy.sandbox).run());
        assert!(proxy.simulator.wait_hanging(1, LONG));
        server.kill();
        proxy.simulator.release();
        let answer = caller.join().unwrap();
        assert_failure(&answer, 500, "storage_error");
        assert!(!(answer.text() + &answer.stderr).contains(PASSWORD), "{}", answer.stderr);
    });
    eventually("the refresher has ended", || refreshers(&proxy.sandbox).is_empty());
    let next = std::fs::read_to_string(proxy.sandbox.tokens().join(format!("{}.next", proxy.stem()))).unwrap();
    let next: Value = serde_json::from_str(&next).unwrap();
    assert!(proxy.portal().is_live(next["refresh_token"].as_str().unwrap()));
    server.resume();
    // Until then others wait, and then find that the old pair is spent.
    let answer = add(&other).run();
    assert!(matches!(answer.status, 503 | 409), "{}", answer.text());
    assert_works(&proxy.sandbox);
    assert_eq!(proxy.stored()["refresh_token"], next["refresh_token"]);
    assert_works(&other);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 2);
    assert_eq!(files(&proxy.sandbox), [format!("{}.kept", proxy.stem()), format!("{}.lock", proxy.stem())]);
}

#[test]
fn a_key_is_one_key_on_every_node() {
    let (proxy, other) = two_nodes(shared(kind()));
    proxy.store_pair(&proxy.portal().issue_pair(1));
    let executed = || proxy.simulator.ledger().executed("crm.deal.add");
    let first = add(&proxy.sandbox).header("Idempotency-Key", "k").run();
    let again = add(&other).header("Idempotency-Key", "k").run();
    assert_eq!((again.status, again.text()), (200, first.text()));
    assert_eq!(again.header("Idempotent-Replayed"), Some("true"));
    let another = Cgi::new(&other).method("POST").json(r#"{"method":"crm.lead.add"}"#).bearer(TOKEN);
    assert_failure(&another.header("Idempotency-Key", "k").run(), 422, "idempotency_key_reused");

    // In use on one node, it is in use on the other, for as long as it takes: here longer than all that is waited for.
    proxy.sandbox.write_config(&proxy.config().replace("timeout       = 10", "timeout = 50"));
    proxy.simulator.inject(Fault::once(Target::Call, Action::HangAfter));
    let request = add(&proxy.sandbox).header("Idempotency-Key", "l").content_length(Some(ADD.len()));
    let mut request = request.as_cgi().spawn();
    request.write(ADD.as_bytes()).unwrap();
    assert!(proxy.simulator.wait_hanging(1, LONG));
    std::thread::sleep(Duration::from_secs(4));
    let begun = Instant::now();
    assert_failure(&add(&other).header("Idempotency-Key", "l").run(), 503, "idempotency_key_in_use");
    assert!(begun.elapsed() >= Duration::from_secs(5), "after max_wait");
    // Its holder dies: unknown, once its lease has ended.
    let died = Instant::now();
    request.signal_group("KILL");
    request.wait_for_end();
    proxy.simulator.release();
    let mut answer = add(&other).header("Idempotency-Key", "l").run();
    while answer.status == 503 {
        answer = add(&other).header("Idempotency-Key", "l").run();
    }
    assert_failure(&answer, 409, "outcome_unknown");
    assert!(died.elapsed() < Duration::from_secs(12), "{:?}", died.elapsed());
    assert_failure(&add(&proxy.sandbox).header("Idempotency-Key", "l").run(), 409, "outcome_unknown");
    assert_eq!(executed(), 2);

    // Many calls go on where they stopped, on the other node.
    let calls: Vec<Value> =
        (0..120).map(|i| json!({"method": "crm.deal.add", "params": {"fields": {"TITLE": i}}})).collect();
    let body = json!({ "calls": calls }).to_string();
    let many = |node| Cgi::new(node).method("POST").json(body.clone()).bearer(TOKEN).header("Idempotency-Key", "m");
    proxy.simulator.inject(Fault::once(Target::Call, Action::CloseAfter).after(1));
    let results = |answer: &Answer| answer.json()["data"]["results"].as_array().unwrap().clone();
    let first = results(&many(&proxy.sandbox).run());
    let second = results(&many(&other).run());
    assert_eq!((second.len(), &second[..first.len()]), (120, &first[..]));
    assert_eq!(second.iter().filter(|result| result["error"] == "OUTCOME_UNKNOWN").count(), 50);
    assert_eq!(executed(), 122);
}

#[test]
fn a_database_that_is_away_or_does_not_answer_is_a_storage_error_before_anything_is_sent() {
    let server = own();
    let (proxy, _) = two_nodes(server);
    proxy.store_pair(&proxy.portal().issue_pair(1));
    assert_works(&proxy.sandbox);
    let connections = proxy.simulator.ledger().all_connections();
    let refused = |way: &str| {
        let keyed = add(&proxy.sandbox).header("Idempotency-Key", "k").run();
        for answer in [add(&proxy.sandbox).run(), keyed] {
            assert_failure(&answer, 500, "storage_error");
            assert_eq!(answer.json()["executed"], "no");
            // connect_timeout is 3 s here.
            assert!(answer.elapsed < Duration::from_secs(8), "{way}: {:?}", answer.elapsed);
            assert!(answer.stderr.contains("the database "), "{way}: {}", answer.stderr);
            assert!(!(answer.text() + &answer.stderr).contains(PASSWORD), "{way}: {}", answer.stderr);
        }
        let health = Cgi::new(&proxy.sandbox).path("/health").run();
        assert_eq!(health.status, 503, "{way}: {}", health.text());
        assert_eq!(proxy.simulator.ledger().all_connections(), connections, "{way}");
    };
    server.freeze();
    refused("frozen");
    server.thaw();
    assert_works(&proxy.sandbox);
    let connections = proxy.simulator.ledger().all_connections();
    server.kill();
    let answer = add(&proxy.sandbox).run();
    assert_failure(&answer, 500, "storage_error");
    assert!(!(answer.text() + &answer.stderr).contains(PASSWORD), "{}", answer.stderr);
    assert_eq!(proxy.simulator.ledger().all_connections(), connections);
    server.resume();
    // What had reached the frozen server was perhaps done when it went on, so that the key is held for a while.
    proxy.leases_end();
    let keyed = add(&proxy.sandbox).header("Idempotency-Key", "k").run();
    assert_eq!((keyed.status, keyed.header("Idempotent-Replayed")), (200, None), "the key was free");
}

#[test]
fn health_tells_of_a_database_that_takes_nothing() {
    let server = own();
    let (proxy, _) = two_nodes(server);
    proxy.store_pair(&proxy.portal().issue_pair(1));
    let health = || Cgi::new(&proxy.sandbox).path("/health").run();
    assert_eq!(health().status, 200, "{}", health().stderr);
    server.make_read_only();
    let answer = health();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.stderr.contains("read-only"), "{}", answer.stderr);
    // A resident one keeps its connection.
    server.kill();
    assert_eq!(health().status, 503);
    server.resume();
    assert_eq!(health().status, 200, "{}", health().stderr);
}

#[test]
fn the_way_to_the_database_is_as_safe_as_its_address_asks() {
    let (authority, key) = authority();
    let (certificate, own_key) = certified(&key);
    let tls: &'static Server = Box::leak(Box::new(Server::start_at_port(kind(), Some((&certificate, &own_key)))));
    let plain: &'static Server = Box::leak(Box::new(Server::start_at_port(kind(), None)));
    let proxy = Proxy::not_installed().on_database(tls.database());
    proxy.store_pair(&proxy.portal().issue_pair(1));
    let (own, without) = (tls.database(), plain.database());
    let socket = proxy.sandbox.database().unwrap().url();
    let ca = proxy.simulator.ca_pem();
    let both = format!("{ca}\n{authority}");
    let health = |url: &str, ca_file: &str| {
        proxy.sandbox.write("b24proxy/ca.pem", 0o600, ca_file.as_bytes());
        proxy.sandbox.write_config(&proxy.config().replace(&socket, url));
        Cgi::new(&proxy.sandbox).path("/health").run()
    };
    for (host, mode, ca_file, works) in [
        ("localhost", "verify-full", &both, true),
        ("localhost", "verify-full", &ca, false),
        // Its name is localhost alone.
        ("127.0.0.1", "verify-full", &both, false),
        ("127.0.0.1", "verify-ca", &both, true),
        ("127.0.0.1", "verify-ca", &ca, false),
        ("127.0.0.1", "require", &ca, true),
        ("127.0.0.1", "prefer", &ca, true),
        // This server takes nobody without TLS, which is not used to this machine unless it is asked for.
        ("127.0.0.1", "disable", &both, false),
        ("127.0.0.1", "", &both, false),
    ] {
        let answer = health(&format!("{}{}", own.url_at(host), asked(mode)), ca_file);
        assert_eq!(answer.status == 200, works, "{host} {mode}: {} {}", answer.text(), answer.stderr);
        assert!(!answer.stderr.contains(PASSWORD), "{}", answer.stderr);
        if !works && mode.contains("verify") {
            let less = asked("verify-ca").replace('?', "");
            assert!(["its certificate", &less].iter().all(|word| answer.stderr.contains(word)), "{}", answer.stderr);
            assert!(!answer.stderr.contains("Error("), "in words: {}", answer.stderr);
        }
    }
    for (mode, works) in [("", true), ("disable", true), ("prefer", true), ("require", false), ("verify-full", false)] {
        let answer = health(&format!("{}{}", without.url_at("localhost"), asked(mode)), &both);
        assert_eq!(answer.status == 200, works, "{mode}: {} {}", answer.text(), answer.stderr);
    }
}

/// As the address of the database says it.
fn asked(mode: &str) -> String {
    match (kind(), mode) {
        (_, "") => String::new(),
        (Kind::Postgres, mode) => format!("?sslmode={mode}"),
        (Kind::MySql, "disable") => "?ssl-mode=disabled".into(),
        (Kind::MySql, "prefer") => "?ssl-mode=preferred".into(),
        (Kind::MySql, "require") => "?ssl-mode=required".into(),
        (Kind::MySql, "verify-ca") => "?ssl-mode=verify_ca".into(),
        (Kind::MySql, "verify-full") => "?ssl-mode=verify_identity".into(),
        (_, other) => panic!("{other} is no mode"),
    }
}

fn authority() -> (String, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = parameters().self_signed(&key).unwrap();
    (authority.pem(), key)
}

fn parameters() -> rcgen::CertificateParams {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "The database's authority");
    parameters
}

/// A certificate for `localhost`, and its key.
fn certified(key: &rcgen::KeyPair) -> (String, String) {
    let issuer = rcgen::Issuer::new(parameters(), key);
    let own = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    (parameters.signed_by(&own, &issuer).unwrap().pem(), own.serialize_pem())
}
