//! Contract section 9 where servers of a database, or what they may, come and go; and where a node loses Bitrix24.

use crate::fixture::*;
use crate::nodes::{add, on_each_kind, Nodes};
use support::cgi::Cgi;
use support::database::{shared, Kind, Server};
use support::Sandbox;

fn own(kind: Kind) -> &'static Server {
    Box::leak(Box::new(Server::start(kind)))
}

#[test]
fn a_server_that_was_restarted_between_two_requests_of_a_worker_is_no_error() {
    on_each_kind(restarted);
}

fn restarted(kind: Kind) {
    let nodes = Nodes::new(own(kind));
    nodes.prepare(false);
    for restart in 0..3 {
        for i in 0..10 {
            let request = add(nodes.other()).as_resident();
            let answer =
                if i % 2 == 0 { request } else { request.header("Idempotency-Key", &format!("{restart} {i}")) };
            let answer = answer.run();
            assert_eq!(answer.status, 200, "{restart} {i}: {} {}", answer.text(), answer.stderr);
        }
        nodes.server.kill();
        nodes.server.resume();
    }
    // The same where the connections alone are lost.
    nodes.database().lose_connections();
    let answer = add(nodes.other()).as_resident().header("Idempotency-Key", "last").run();
    assert_eq!(answer.status, 200, "{} {}", answer.text(), answer.stderr);
    assert_eq!(nodes.executed(), 31);
}

#[test]
fn nodes_that_come_first_at_one_moment_find_the_tables() {
    on_each_kind(first);
}

fn first(kind: Kind) {
    let proxy = Proxy::not_installed().on_database(shared(kind).database());
    let other = Sandbox::new();
    other.write("b24proxy/ca.pem", 0o600, proxy.simulator.ca_pem().as_bytes());
    other.write_config(proxy.config());
    std::thread::scope(|scope| {
        for i in 0..12 {
            let node = if i % 2 == 0 { &proxy.sandbox } else { &other };
            scope.spawn(move || {
                let request = add(node).header("Idempotency-Key", &format!("{i}"));
                let answer = if i % 3 == 0 { request.as_resident() } else { request.as_cgi() }.run();
                assert_failure(&answer, 409, "not_installed");
            });
        }
    });
    assert!(proxy.sandbox.database().expect("it has one").has_tables());
}

/// Makes a server's database one that is only read, as a copy is, or one that is written to.
fn set_read_only(proxy: &Proxy, is_read_only: bool) {
    let database = proxy.sandbox.database().expect("it has one");
    match database.kind() {
        Kind::Postgres => {
            let value = if is_read_only { "on" } else { "off" };
            let name = database.name();
            database.sql(&format!(
                "SET TRANSACTION READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = {value}"
            ));
            database.lose_connections();
        }
        Kind::MySql => drop(database.sql(&format!("SET GLOBAL read_only = {}", u8::from(is_read_only)))),
    }
}

#[test]
fn of_several_servers_the_one_that_can_be_written_to_counts() {
    on_each_kind(several);
}

fn several(kind: Kind) {
    let server = || -> &'static Server { Box::leak(Box::new(Server::start_at_port(kind, None))) };
    let servers = [server(), server()];
    // Each has a database of the same name.
    let [first, second] = servers.map(|server| Proxy::not_installed().on_database(server.database()));
    let place = |proxy: &Proxy| proxy.sandbox.database().expect("it has one").url_at("127.0.0.1");
    let (one, two) = (place(&first), place(&second));
    let host = |url: &str| url.split(['@', '/']).nth(3).expect("a host").to_owned();
    let both = one.replace(&host(&one), &format!("{},{}", host(&one), host(&two)));
    let pair = second.portal().issue_pair(1);
    second.store_pair(&pair);
    let socket = second.sandbox.database().expect("it has one").url();
    second.sandbox.write_config(&second.config().replace(&socket, &both));
    first.sandbox.database().expect("it has one").tables();
    set_read_only(&first, true);
    let works = |way: &str| {
        let keyed = |key: &str| add(&second.sandbox).header("Idempotency-Key", key);
        for request in [keyed(&format!("{way} 1")).as_cgi(), keyed(&format!("{way} 2")).as_resident()] {
            let answer = request.run();
            assert_eq!(answer.status, 200, "{way}: {} {}", answer.text(), answer.stderr);
        }
    };
    works("the second");
    // The other one takes over; connections to this one stay.
    let table = second.sandbox.token_file(&format!("{}.json", second.stem())).expect("a pair");
    let table = String::from_utf8(table).expect("UTF-8");
    set_read_only(&first, false);
    first.sandbox.write_token_file(&format!("{}.json", second.stem()), &table);
    set_read_only(&second, true);
    works("the first");
    let count = |proxy: &Proxy| proxy.sandbox.database().expect("it has one").sql("SELECT count(*) FROM b24proxy_keys");
    assert_eq!((count(&first).as_str(), count(&second).as_str()), ("2", "2"));
    // None is left.
    set_read_only(&first, true);
    let before = second.simulator.ledger().all_connections();
    for request in [add(&second.sandbox).as_cgi(), add(&second.sandbox).as_resident()] {
        let answer = request.header("Idempotency-Key", "k").run();
        assert_failure(&answer, 500, "storage_error");
        assert_eq!(answer.json()["executed"], "no");
    }
    assert_eq!(second.simulator.ledger().all_connections(), before);
}

/// A network name space of its own has no network, and sees the socket of the database all the same.
#[test]
fn a_node_that_is_cut_off_from_bitrix24_alone_harms_no_other() {
    on_each_kind(cut_off);
}

fn cut_off(kind: Kind) {
    let nodes = Nodes::new(shared(kind));
    nodes.one().run_behind("exec unshare -rn {}");
    let keyed = |node| -> Cgi<'_> { add(node).header("Idempotency-Key", "key") };
    nodes.prepare(true);
    // It cannot refresh, which is shared for ten seconds, and loses nothing.
    for _ in 0..2 {
        let answer = keyed(nodes.one()).run();
        assert_failure(&answer, 502, "oauth_server_error");
        assert_eq!(answer.json()["executed"], "no");
    }
    assert_failure(&add(nodes.other()).run(), 502, "oauth_server_error");
    assert_eq!(nodes.proxy.simulator.ledger().refreshes(), 0);
    std::thread::sleep(std::time::Duration::from_secs(10));
    // The other one refreshes, and keeps the key that the one could not use.
    let answer = keyed(nodes.other()).run();
    assert_eq!((answer.status, answer.header("Idempotent-Replayed")), (200, None), "{}", answer.text());
    // Now that it is known the one says it as well; and of what it cannot send, that it was not sent.
    assert_eq!(keyed(nodes.one()).run().header("Idempotent-Replayed"), Some("true"));
    let answer = add(nodes.one()).header("Idempotency-Key", "next").run();
    assert_eq!((answer.status, answer.json()["executed"].as_str()), (502, Some("no")), "{}", answer.text());
    let answer = add(nodes.other()).header("Idempotency-Key", "next").run();
    assert_eq!((answer.status, answer.header("Idempotent-Replayed")), (200, None), "{}", answer.text());
    let ledger = nodes.proxy.simulator.ledger();
    assert_eq!((ledger.refreshes(), ledger.spent_presented(), nodes.executed()), (1, 0, 2));
}
