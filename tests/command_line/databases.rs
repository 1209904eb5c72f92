//! What an administrator meets with a database, tried on real servers: one finding that says what to do.

use crate::fixture::*;
use crate::{lines, run};
use serde_json::json;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use support::database::{shared, Kind, Server, PASSWORD};
use support::of_every_database;

of_every_database! {
    whatever_is_wrong_with_a_database_is_one_finding_that_says_what_to_do_and_names_no_user
    a_host_that_does_not_answer_takes_its_share_of_the_time_for_a_connection_alone
}

const USER: &str = "somebody";

/// A user who is asked for a password at the server of the tests, as [`Server`]'s own of PostgreSQL is not.
fn make_user(kind: Kind) {
    let server = shared(kind).database();
    server.sql(&match kind {
        Kind::Postgres => {
            let hba = shared(kind).folder().join("data/pg_hba.conf");
            format!(
                "CREATE USER {USER} PASSWORD '{PASSWORD}'; CREATE USER {USER}_limited CONNECTION LIMIT 0; \
                 COPY (SELECT 'local all {USER} scram-sha-256' UNION ALL SELECT 'local all all trust') TO '{}'; \
                 SELECT pg_reload_conf()",
                hba.display()
            )
        }
        Kind::MySql => format!(
            "CREATE USER {USER} IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON `b24\\_%`.* TO {USER}; \
             CREATE USER {USER}_limited IDENTIFIED BY '{PASSWORD}' WITH MAX_CONNECTIONS_PER_HOUR 1; \
             GRANT ALL PRIVILEGES ON `b24\\_%`.* TO {USER}_limited"
        ),
    });
}

fn whatever_is_wrong_with_a_database_is_one_finding_that_says_what_to_do_and_names_no_user(kind: Kind) {
    make_user(kind);
    let proxy = Proxy::installed().on_files();
    let (empty, newer) = (shared(kind).database(), shared(kind).database());
    newer.tables();
    newer.sql("UPDATE b24proxy_version SET version = 2");
    let scheme = empty.type_name();
    let (_, place) =
        empty.url().split_once('@').map(|(user, place)| (user.to_owned(), place.to_owned())).expect("a user");
    let as_user = |login: &str| format!("{scheme}://{login}@{place}");
    let nobody = |place: &str| format!("{scheme}://{USER}:{PASSWORD}@{place}");
    let off = if kind == Kind::Postgres { "?sslmode=disable" } else { "?ssl-mode=disabled" };
    let own = |postgres: &'static str, mysql: &'static str| if kind == Kind::Postgres { postgres } else { mysql };
    for (what, url, words) in [
        ("wrong password", as_user(&format!("{USER}:another-password")), "%40 for @"),
        ("no password", as_user(USER), "asks for a password"),
        ("rights", as_user(&format!("{USER}:{PASSWORD}")), own("own the database", "GRANT ALL PRIVILEGES")),
        ("limit", as_user(&format!("{USER}_limited:{PASSWORD}")), "raise max_connections"),
        ("no database", empty.url().replace(empty.name(), "b24_nothing"), "make it: CREATE DATABASE"),
        ("newer tables", newer.url(), "use that one on this node too"),
        ("port", nobody("127.0.0.1:1/b24"), "nobody listens there"),
        ("name", nobody(&format!("no-such-host.invalid/b24{off}")), "its name is not known here"),
        ("socket", nobody("%2Fnowhere%2Fsocket/b24"), "no such socket"),
    ] {
        proxy.sandbox.write_config(&format!("{}\n[storage]\ntype = \"{scheme}\"\nurl = \"{url}\"\n", proxy.config()));
        if what == "limit" {
            run(&proxy, &["check"]);
        }
        let checked = run(&proxy, &["check", "--json"]);
        let found: Vec<_> = lines(&checked).into_iter().filter(|(check, ..)| check.starts_with("database")).collect();
        let [(_, status, text)] = found.as_slice() else { panic!("{what}: not one finding: {found:?}") };
        assert!(status == "fail" && text.contains(words), "{what}: {text}");
        let failed: Vec<_> = lines(&checked).into_iter().filter(|(_, status, _)| status == "fail").collect();
        assert!(failed.iter().all(|(check, ..)| check == "database" || check == "clock"), "{what}: {failed:?}");
        let answer = proxy.call("profile", json!({}));
        assert_failure(&answer, 500, "storage_error");
        assert!(answer.stderr.contains(words), "{what}: {}", answer.stderr);
        for secret in [PASSWORD, "another-password", USER] {
            let shown = checked.all() + &answer.stderr + &answer.text();
            assert!(!shown.contains(secret), "{what} shows {secret}: {shown}");
        }
    }
    assert_eq!(proxy.simulator.ledger().executed("profile"), 0);
}

fn a_host_that_does_not_answer_takes_its_share_of_the_time_for_a_connection_alone(kind: Kind) {
    const PATIENCE: Duration = Duration::from_secs(4);
    let server = Server::start_at_port(kind, None);
    let database = server.database();
    let proxy = Proxy::installed().on_files();
    // They take connections, and say nothing.
    let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [one, other] = [0, 1].map(|i| silent[i].local_addr().expect("its address").to_string());
    let section = |url: &str| {
        let config = proxy.config().replace("connect_timeout = 3", "connect_timeout = 4");
        assert!(config.contains("connect_timeout = 4"), "{config}");
        format!("{config}\n[storage]\ntype = \"{}\"\nurl = \"{url}\"\n", database.type_name())
    };
    let url = database.url_at("127.0.0.1");
    proxy.sandbox.write_config(&section(&url.replace('@', &format!("@{one},"))));
    assert_eq!(proxy.call("profile", json!({})).status, 409, "the second one is asked");
    proxy
        .sandbox
        .write_config(&section(&url.replace(url.rsplit('@').next().expect("a host"), &format!("{one},{other}/b24"))));
    let begun = Instant::now();
    let answer = proxy.call("profile", json!({}));
    let took = begun.elapsed();
    assert_failure(&answer, 500, "storage_error");
    assert!(took < PATIENCE + Duration::from_secs(1), "{took:?}");
    for words in [&*one, &*other, "has not answered within 2 seconds"] {
        assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
    }
}
