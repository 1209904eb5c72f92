//! Two nodes at one database, one of them by way of a relay.

use crate::bench::prepare;
use crate::fixture::*;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};
use support::cgi::{Answer, Cgi};
use support::database::{Database, Kind, Server};
use support::relay::{is_refresher, Relay};
use support::{eventually, Sandbox};

pub const KEY: &str = "key";
const ADD: &str = r#"{"method":"crm.deal.add"}"#;

pub struct Nodes {
    pub server: &'static Server,
    /// With the node that has the relay.
    pub proxy: Proxy,
    pub relay: Relay,
    other: Sandbox,
}

impl Nodes {
    pub fn new(server: &'static Server) -> Nodes {
        Nodes::of(server, Proxy::not_installed())
    }

    pub fn of(server: &'static Server, proxy: Proxy) -> Nodes {
        let proxy = proxy.on_database(server.database());
        let aliases = "aliases = [\"acme\"]";
        let proxy = proxy.reconfigured(aliases, &format!("{aliases}\nrequests_per_second = 1000\nburst = 100000"));
        proxy.portal().remove_bucket();
        let other = Sandbox::new();
        other.write("b24proxy/ca.pem", 0o600, proxy.simulator.ca_pem().as_bytes());
        other.write_config(proxy.config());
        let relay = server.relay();
        let database = proxy.sandbox.database().expect("it is on a database");
        let by_relay = proxy.config().replace(&database.url(), &database.url_by(&relay));
        assert_ne!(by_relay, proxy.config());
        proxy.sandbox.write_config(&by_relay);
        database.tables();
        Nodes { server, proxy, relay, other }
    }

    /// The one with the relay.
    pub fn one(&self) -> &Sandbox {
        &self.proxy.sandbox
    }

    pub fn other(&self) -> &Sandbox {
        &self.other
    }

    pub fn database(&self) -> &Database<'static> {
        self.proxy.sandbox.database().expect("it is on a database")
    }

    /// A new pair, valid or expired, and no keys.
    pub fn prepare(&self, expired: bool) {
        self.database().sql("DELETE FROM b24proxy_keys");
        prepare(&self.proxy, expired);
    }

    pub fn executed(&self) -> usize {
        self.proxy.simulator.ledger().executed("crm.deal.add")
    }

    /// Of the one key: how much is written down of it.
    pub fn entries_of_key(&self) -> usize {
        self.database().sql("SELECT coalesce(sum(entries), 0) FROM b24proxy_keys").parse().expect("a number")
    }

    /// Whether a new pair waits on the one to be stored.
    pub fn waits(&self) -> bool {
        let next = self.one().tokens().join(format!("{}.next", self.proxy.stem()));
        let token =
            |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).ok()?["refresh_token"].as_str().map(str::to_owned);
        std::fs::read(next).ok().and_then(token).is_some_and(|token| self.proxy.portal().is_live(&token))
    }

    /// Until every refresher has ended.
    pub fn settle(&self) {
        for node in [self.one(), self.other()] {
            eventually("the refresher has ended", || refreshers(node).is_empty());
        }
    }

    #[track_caller]
    pub fn assert_works(&self, node: &Sandbox, after: &str) {
        let answer = once_it_is_known(&add(node));
        assert_eq!(answer.status, 200, "{after}: {} {}", answer.text(), answer.stderr);
    }

    /// After the hour for which a pair is kept, no token is on the node.
    #[track_caller]
    pub fn assert_tidy(&self, after: &str) {
        for node in [self.one(), self.other()] {
            let kept = node.tokens().join(format!("{}.kept", self.proxy.stem()));
            if let Ok(file) = std::fs::File::options().append(true).open(kept) {
                file.set_modified(SystemTime::now() - Duration::from_secs(3601)).expect("it is ours");
                self.assert_works(node, after);
            }
            for name in files(node) {
                assert_eq!(name, format!("{}.lock", self.proxy.stem()), "{after}");
                let lock = std::fs::read_to_string(node.tokens().join(name)).expect("it is ours");
                assert!(lock.trim().parse::<i64>().is_ok(), "{after}: nothing but a number: {lock}");
            }
        }
    }
}

/// PostgreSQL and MariaDB at once: most of it is waiting.
pub fn on_each_kind(test: impl Fn(Kind) + Sync) {
    let test = &test;
    std::thread::scope(|scope| {
        for kind in [Kind::Postgres, Kind::MySql] {
            scope.spawn(move || test(kind));
        }
    });
}

pub fn add(node: &Sandbox) -> Cgi<'_> {
    Cgi::new(node).method("POST").json(ADD).bearer(TOKEN)
}

/// The answer, repeated for as long as it says that another is at work.
#[track_caller]
pub fn once_it_is_known(request: &Cgi) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = request.clone().run();
        if answer.status != 503 {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", answer.text());
    }
}

pub fn refreshers(node: &Sandbox) -> Vec<u32> {
    node.processes().into_iter().filter(|process| is_refresher(*process)).collect()
}

pub fn files(node: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(node.tokens()).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}
