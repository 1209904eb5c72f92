//! `b24proxy move --to ADDRESS`, between a folder and a database, and `check` of a database.

use crate::fixture::*;
use crate::{assert_line, ended, lines, run, Ended};
use serde_json::{json, Value};
use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::cgi::{Answer, Cgi};
use support::database::{shared, Database, Kind, PASSWORD};
use support::eventually;
use support::of_every_database;
use support::postgres::pooler;

const ADD: &str = r#"{"method":"crm.deal.add","params":{"fields":{"TITLE":"a"}}}"#;

fn on_files() -> Proxy {
    let proxy = Proxy::installed().on_files();
    let (aliases, fast) = ("aliases = [\"acme\"]", "requests_per_second = 100\nburst = 250");
    proxy.portal().set_bucket(100.0, 250.0);
    proxy.reconfigured(aliases, &format!("{aliases}\n{fast}"))
}

/// The address on standard input, so that no password is in the process list.
fn move_to(proxy: &Proxy, address: &str) -> Ended {
    let moved = ended(proxy, proxy.sandbox.command_line(&["move", "--to", "-"]), &format!("{address}\n"));
    assert!(!moved.all().contains(PASSWORD), "{}", moved.all());
    moved
}

fn folder(proxy: &Proxy) -> String {
    proxy.sandbox.tokens().display().to_string()
}

/// With the configuration that names the database.
fn named(proxy: &Proxy, database: &Database) -> String {
    format!("{}\n{}", proxy.config(), database.section())
}

of_every_database! {
    all_that_is_stored_moves_into_a_database_and_back_and_whoever_asks_the_old_place_is_told_the_new_one
    a_target_that_holds_a_portal_unmarked_is_refused_and_nothing_is_changed
    calls_with_keys_during_a_move_lose_nothing_and_none_is_executed_twice
    events_move_with_their_numbers_and_none_that_was_answered_200_during_the_move_is_lost
    a_move_that_is_killed_anywhere_is_ended_by_the_same_command_in_both_directions
    check_names_each_right_that_is_missing
    the_statements_that_make_the_tables_are_printed_for_the_database_that_is_named
}

fn add(proxy: &Proxy, key: &str) -> Answer {
    keyed(proxy, key).run()
}

fn keyed<'p>(proxy: &'p Proxy, key: &str) -> Cgi<'p> {
    proxy.request(ADD).header("Idempotency-Key", key)
}

#[track_caller]
fn assert_moved(answer: &Answer, place: &str) {
    assert_failure(answer, 500, "storage_error");
    let (text, log) = (answer.text(), &answer.stderr);
    assert!(text.contains(place) && log.contains(place), "{text} {log}");
    assert!(!text.contains(PASSWORD) && !log.contains(PASSWORD), "{text} {log}");
}

fn all_that_is_stored_moves_into_a_database_and_back_and_whoever_asks_the_old_place_is_told_the_new_one(kind: Kind) {
    let proxy = on_files();
    let files = proxy.config().to_owned();
    let database = shared(kind).database();
    let first = add(&proxy, "kept");
    assert_eq!(first.status, 200, "{}", first.text());
    let pair = proxy.stored();
    let moved = move_to(&proxy, &database.url());
    assert_eq!(moved.code, 0, "{}", moved.all());
    assert!(
        moved.stdout.contains(&format!("moved to {}://", database.type_name()))
            && moved.stdout.contains("1 idempotency"),
        "{}",
        moved.stdout
    );
    let name = shared(kind).folder().display().to_string();
    assert_moved(&add(&proxy, "kept"), &name);
    assert_moved(&add(&proxy, "new"), &name);
    assert_moved(&proxy.call("profile", json!({})), &name);
    assert_eq!(proxy.stored_bytes(), None, "no token is left in the folder");
    // The new place.
    let (portal, in_database) = (proxy.portal().name(), named(&proxy, &database));
    let proxy = proxy.configured(&in_database);
    let stored: Value = serde_json::from_str(&database.sql("SELECT pair FROM b24proxy_portals")).unwrap();
    assert_eq!(stored["refresh_token"], pair["refresh_token"]);
    let replayed = add(&proxy, "kept");
    assert_eq!((replayed.status, replayed.header("Idempotent-Replayed")), (200, Some("true")), "{}", replayed.text());
    assert_eq!(replayed.json()["data"], first.json()["data"]);
    assert_eq!(add(&proxy, "of the database").status, 200);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 2);
    let again = move_to(&proxy, &database.url());
    assert!(again.code == 1 && again.stderr.contains("already"), "{}", again.all());
    // And back: what is marked there is replaced.
    let back = move_to(&proxy, &folder(&proxy));
    assert!(back.code == 0 && back.stdout.contains(&portal), "{}", back.all());
    assert_moved(&add(&proxy, "kept"), &folder(&proxy));
    let proxy = proxy.configured(&files);
    for key in ["kept", "of the database"] {
        assert_eq!(add(&proxy, key).header("Idempotent-Replayed"), Some("true"), "{key}");
    }
    assert_eq!(add(&proxy, "new").status, 200);
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 3);
}

fn a_target_that_holds_a_portal_unmarked_is_refused_and_nothing_is_changed(kind: Kind) {
    let proxy = on_files();
    let database = shared(kind).database();
    database.keep(&format!("{}.json", proxy.stem()), &proxy.stored().to_string());
    let before = database.sql("SELECT * FROM b24proxy_portals");
    for _ in 0..2 {
        let moved = move_to(&proxy, &database.url());
        assert_eq!(moved.code, 1, "{}", moved.all());
        assert!(moved.stdout.contains(&format!("{}: REFUSED", proxy.portal().name())), "{}", moved.stdout);
    }
    assert_eq!(database.sql("SELECT * FROM b24proxy_portals"), before);
    assert_eq!(proxy.call("profile", json!({})).status, 200);
    assert!(!proxy.sandbox.tokens().join(format!("{}.moved", proxy.stem())).exists());
}

#[test]
fn an_address_that_is_none_is_wrong_usage_and_not_shown() {
    let proxy = on_files();
    for address in ["tokens", "", "http://u:geheim@db.lan/b", "postgres://u:geheim@db.lan"] {
        let moved = move_to(&proxy, address);
        assert!(moved.code == 2 && !moved.all().contains("geheim"), "{}", moved.all());
    }
    let away = move_to(&proxy, &format!("postgres://u:{PASSWORD}@127.0.0.1:1/b"));
    assert_eq!(away.code, 1, "{}", away.all());
    assert_eq!(proxy.call("profile", json!({})).status, 200);
}

/// Callers during a move; what the old place answered the new one, by `config`, answers too.
fn called_during_a_move(proxy: Proxy, to: &str, config: &str) -> Proxy {
    let before = proxy.simulator.ledger().executed("crm.deal.add");
    let (ended, number) = (AtomicBool::new(false), AtomicU32::new(0));
    let answered = std::thread::scope(|scope| {
        let call = || {
            let mut answered = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let key = format!("key {} to {}", number.fetch_add(1, Ordering::SeqCst), config.len());
                answered.push((key.clone(), add(&proxy, &key)));
            }
            answered
        };
        let callers: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
        eventually("calls are under way", || proxy.simulator.ledger().executed("crm.deal.add") > before + 4);
        let moved = move_to(&proxy, to);
        std::thread::sleep(Duration::from_millis(300));
        ended.store(true, Ordering::SeqCst);
        assert_eq!(moved.code, 0, "{}", moved.all());
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    let place = to.split_once("://").map_or(to, |(scheme, _)| scheme);
    let proxy = proxy.configured(config);
    let mut executed = 0;
    for (key, answer) in &answered {
        if answer.status != 200 {
            assert_moved(answer, place);
            continue;
        }
        executed += 1;
        let replayed = add(&proxy, key);
        assert_eq!(replayed.header("Idempotent-Replayed"), Some("true"), "{key}: {}", replayed.text());
        assert_eq!(replayed.json()["data"], answer.json()["data"], "{key}");
    }
    assert!(executed > 4 && executed < answered.len(), "{executed} of {}", answered.len());
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), before + executed);
    proxy
}

fn calls_with_keys_during_a_move_lose_nothing_and_none_is_executed_twice(kind: Kind) {
    let proxy = on_files();
    let (database, files) = (shared(kind).database(), proxy.config().to_owned());
    let in_database = named(&proxy, &database);
    let proxy = called_during_a_move(proxy, &database.url(), &in_database);
    let to = folder(&proxy);
    called_during_a_move(proxy, &to, &files);
}

/// Posts events while all moves to another place; the texts of those that were answered 200.
fn reported_during_a_move(proxy: &Proxy, to: &str, name: &str) -> Vec<String> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let post = |sender: u32| {
            let ended = &ended;
            scope.spawn(move || {
                let mut taken = Vec::new();
                for number in 0.. {
                    let text = format!("{name} {sender} {number}");
                    let form = proxy.portal().report("ONCRMDEALADD", &[("[TEXT]", &text)]);
                    let answer = Cgi::new(&proxy.sandbox).form(&form).run();
                    match answer.status {
                        200 => taken.push(text),
                        _ => assert_failure(&answer, 500, "storage_error"),
                    }
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                }
                taken
            })
        };
        let senders: Vec<_> = (0..3).map(post).collect();
        std::thread::sleep(Duration::from_millis(500));
        let moved = move_to(proxy, to);
        ended.store(true, Ordering::SeqCst);
        assert_eq!(moved.code, 0, "{}", moved.all());
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    })
}

fn events_move_with_their_numbers_and_none_that_was_answered_200_during_the_move_is_lost(kind: Kind) {
    let proxy = on_files();
    proxy.change_stored(|tokens| tokens["application_token"] = proxy.portal().application_token().into());
    let (database, files) = (shared(kind).database(), proxy.config().to_owned());
    let in_database = named(&proxy, &database);
    let mut taken = reported_during_a_move(&proxy, &database.url(), "there");
    let proxy = proxy.configured(&in_database);
    let first = read(&proxy);
    assert_eq!(first.iter().map(|(_, text)| text.clone()).collect::<BTreeSet<_>>(), taken.iter().cloned().collect());
    taken.extend(reported_during_a_move(&proxy, &folder(&proxy), "back"));
    let proxy = proxy.configured(&files);
    let all = read(&proxy);
    assert_eq!(all[..first.len()], first, "they keep their numbers");
    assert_eq!(all.iter().map(|(_, text)| text.clone()).collect::<BTreeSet<_>>(), taken.iter().cloned().collect());
    assert_eq!(all.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=taken.len() as u64).collect::<Vec<_>>());
    assert!(taken.len() > first.len() && first.len() > 3, "{} {}", taken.len(), first.len());
}

/// Numbers and texts of all events.
fn read(proxy: &Proxy) -> Vec<(u64, String)> {
    let answer = proxy.request(r#"{"events":{"most":1000}}"#).run();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let one = |event: &Value| (event["number"].as_u64().unwrap(), event["data"]["TEXT"].as_str().unwrap().to_owned());
    answer.json()["data"]["events"].as_array().unwrap().iter().map(one).collect()
}

/// Killed at moments that are spread over a whole move; the same command ends it.
fn killed_and_repeated(proxy: &Proxy, database: &Database, to: &str) {
    let mut killed = 0;
    for millisecond in (4..).step_by(6) {
        // What the killed one held would last for ten seconds.
        if killed > 0 && database.has_tables() {
            database.end_leases();
        }
        let mut command = proxy.sandbox.command_line(&["move", "--to", to]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millisecond));
        let was_running = child.try_wait().unwrap().is_none();
        let _ = child.kill();
        let status = child.wait().unwrap();
        if !was_running || status.success() {
            assert!(status.success(), "{status}");
            break;
        }
        killed += 1;
    }
    assert!(killed > 2, "{killed}");
    eventually("the same command ends it", || {
        let ended = run(proxy, &["move", "--to", to]);
        ended.code == 0
    });
}

fn a_move_that_is_killed_anywhere_is_ended_by_the_same_command_in_both_directions(kind: Kind) {
    let proxy = on_files();
    let files = proxy.config().to_owned();
    let database = shared(kind).database();
    for key in 0..20 {
        assert_eq!(add(&proxy, &key.to_string()).status, 200);
    }
    let (pair, executed) = (proxy.stored()["refresh_token"].clone(), proxy.simulator.ledger().executed("crm.deal.add"));
    let in_database = named(&proxy, &database);
    let assert_whole = |proxy: &Proxy| {
        for key in 0..20 {
            let replayed = add(proxy, &key.to_string());
            assert_eq!(replayed.header("Idempotent-Replayed"), Some("true"), "{key}: {}", replayed.text());
        }
        assert_eq!(proxy.call("profile", json!({})).status, 200);
        assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), executed);
    };
    killed_and_repeated(&proxy, &database, &database.url());
    let proxy = proxy.configured(&in_database);
    assert_whole(&proxy);
    killed_and_repeated(&proxy, &database, &folder(&proxy));
    let proxy = proxy.configured(&files);
    assert_whole(&proxy);
    assert_eq!(proxy.stored()["refresh_token"], pair);
}

#[test]
fn all_that_is_stored_moves_from_one_kind_of_database_to_the_other() {
    let proxy = on_files();
    let (one, other) = (shared(Kind::Postgres).database(), shared(Kind::MySql).database());
    let configurations = [named(&proxy, &one), named(&proxy, &other)];
    assert_eq!(add(&proxy, "kept").status, 200);
    assert_eq!(move_to(&proxy, &one.url()).code, 0);
    let mut proxy = proxy.configured(&configurations[0]);
    for (to, configuration) in [(&other, &configurations[1]), (&one, &configurations[0])] {
        let moved = move_to(&proxy, &to.url());
        assert!(moved.code == 0 && moved.stdout.contains("1 idempotency"), "{}", moved.all());
        assert_moved(&add(&proxy, "kept"), to.type_name());
        proxy = proxy.configured(configuration);
        assert_eq!(add(&proxy, "kept").header("Idempotent-Replayed"), Some("true"));
    }
    assert_eq!(proxy.simulator.ledger().executed("crm.deal.add"), 1);
}

#[test]
fn check_tells_what_it_finds_of_a_database_and_shows_no_password() {
    let proxy = Proxy::installed().on_files();
    let (direct, pooled, mysql) =
        (shared(Kind::Postgres).database(), shared(Kind::Postgres).database(), shared(Kind::MySql).database());
    let storage =
        |kind: &str, url: &str| format!("{}\n[storage]\ntype = \"{kind}\"\nurl = \"{url}\"\n", proxy.config());
    for (kind, url, version, setting) in [
        ("postgres", direct.url(), "PostgreSQL 1", "fsync = off"),
        ("postgres", pooler().url(&pooled), "PostgreSQL 1", "fsync = off"),
        ("mysql", mysql.url(), "MariaDB 1", "innodb_flush_log_at_trx_commit = 2"),
    ] {
        proxy.sandbox.write_config(&storage(kind, &url));
        let checked = run(&proxy, &["check", "--json"]);
        assert_line(&checked, "database", "ok", version);
        assert_line(&checked, "database rights", "ok", "");
        assert_line(&checked, "database TLS", "ok", "none is needed");
        // As the servers of the tests are.
        assert_line(&checked, "database durability", "fail", setting);
        if kind == "postgres" {
            assert_line(&checked, "database pooling", "ok", "transactions");
        }
        assert_line(&checked, "database connections", "ok", "open");
        assert_line(&checked, "database clock", "ok", "");
        assert!(!checked.all().contains(PASSWORD), "{}", checked.all());
    }
    direct.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", direct.name()));
    proxy.sandbox.write_config(&storage("postgres", &direct.url()));
    assert_line(&run(&proxy, &["check", "--json"]), "database", "fail", "read-only");
    for kind in ["postgres", "mysql"] {
        proxy.sandbox.write_config(&storage(kind, &format!("{kind}://nobody:{PASSWORD}@127.0.0.1:1/b")));
        let away = run(&proxy, &["check", "--json"]);
        assert_line(&away, "database", "fail", &format!("{kind}://127.0.0.1:1/b"));
        assert!(!away.all().contains(PASSWORD), "{}", away.all());
        let folders: Vec<_> = lines(&away).into_iter().filter(|(check, ..)| check == "token folder").collect();
        assert!(folders.iter().all(|(_, status, _)| status == "ok"), "the folder is not to blame: {folders:?}");
    }
}

fn check_names_each_right_that_is_missing(kind: Kind) {
    let proxy = Proxy::installed().on_files();
    let database = shared(kind).database();
    database.tables();
    let (user, name) = (format!("poor_{}", database.name()), database.name());
    database.sql(&match kind {
        Kind::Postgres => format!(
            "CREATE USER {user}; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {user}; \
             GRANT DELETE ON b24proxy_entries, b24proxy_clients, b24proxy_portals, b24proxy_limits TO {user}"
        ),
        Kind::MySql => {
            let rest = ["entries", "clients", "portals", "limits"]
                .map(|table| format!("GRANT DELETE ON {name}.b24proxy_{table} TO {user};"));
            format!(
                "CREATE USER {user} IDENTIFIED BY '{PASSWORD}'; GRANT SELECT, INSERT, UPDATE ON {name}.* TO {user}; {}",
                rest.concat()
            )
        }
    });
    let (scheme, place) = database
        .url()
        .split_once('@')
        .map(|(user, place)| (user.split_once("://").expect("an address").0.to_owned(), place.to_owned()))
        .expect("a user");
    let url = format!("{scheme}://{user}:{PASSWORD}@{place}");
    let config = format!("{}\n[storage]\ntype = \"{scheme}\"\nurl = \"{url}\"\n", proxy.config());
    proxy.sandbox.write_config(&config);
    let checked = run(&proxy, &["check", "--json"]);
    assert_line(&checked, "database rights", "fail", "DELETE on b24proxy_keys");
    assert!(!checked.stdout.contains("DELETE on b24proxy_entries"), "{}", checked.stdout);
}

fn the_statements_that_make_the_tables_are_printed_for_the_database_that_is_named(kind: Kind) {
    let proxy = Proxy::not_installed().on_files();
    let all = run(&proxy, &["check", "--schema"]);
    assert_eq!((all.code, all.stdout.matches("EXISTS b24proxy_portals").count()), (0, 2), "{}", all.all());
    let database = shared(kind).database();
    proxy.sandbox.write_config(&named(&proxy, &database));
    let printed = run(&proxy, &["check", "--schema"]);
    assert_eq!((printed.code, printed.stdout.matches("EXISTS b24proxy_portals").count()), (0, 1), "{}", printed.all());
    assert!(all.stdout.contains(&printed.stdout), "{}", printed.stdout);
    assert!(!database.has_tables(), "they are printed, not made");
    // And once more: each is made where it is not there.
    database.sql(&printed.stdout);
    database.sql(&printed.stdout);
    assert!(database.has_tables());
    assert_eq!(proxy.call("profile", json!({})).status, 409);
}
