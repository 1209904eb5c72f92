//! What is said of MySQL and MariaDB alone.

use super::Database;
use crate::store::records::{Entry, Installation, Notes};
use crate::store::test_suite::{database, portal, tokens, Temporary};
use crate::store::{Appended, Claim, Replaced, Store, QUOTA};
use crate::system::clock::Deadline;
use std::borrow::Cow;
use std::time::Duration;
use support::database::{shared, Kind, Server, PASSWORD};

fn store(url: &str) -> (Database, Temporary) {
    let place = Temporary::new();
    (database(url, Duration::from_secs(5), &place.path().join("tokens"), QUOTA), place)
}

fn done(body: &[u8]) -> Entry<'static> {
    Entry::Done { status: 200, content_type: "a/b".into(), body: Some(Cow::Owned(body.to_vec())) }
}

/// What is read of a key after these entries were appended, and what became of the last one.
fn kept(store: &Database, key: &str, entries: &[Entry]) -> (Vec<Entry<'static>>, Appended) {
    let open = || match store.claim("c", &portal(), key, "w\"h'a\\t", Deadline::after(Duration::from_secs(1))).unwrap()
    {
        Claim::Opened(journal, entries) => (journal, entries),
        _ => panic!("{key} is not free"),
    };
    let (mut journal, _) = open();
    let mut appended = Appended::Kept;
    for entry in entries {
        appended = journal.append(entry).unwrap();
    }
    drop(journal);
    (open().1, appended)
}

#[test]
fn whatever_its_modes_are_it_keeps_what_it_is_given() {
    let server = Server::start(Kind::MySql);
    let database = server.database();
    let modes =
        "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,IGNORE_SPACE,NO_UNSIGNED_SUBTRACTION,PAD_CHAR_TO_FULL_LENGTH";
    let every_byte: Vec<u8> = (0..=255).collect();
    for (i, (modes, isolation)) in
        [(modes, "READ-COMMITTED"), ("", "SERIALIZABLE"), ("TRADITIONAL,ANSI", "READ-UNCOMMITTED")]
            .into_iter()
            .enumerate()
    {
        database.sql(&format!(
            "SET GLOBAL sql_mode = '{modes}'; SET GLOBAL tx_isolation = '{isolation}'; SET GLOBAL autocommit = 0; \
             SET GLOBAL time_zone = '+13:00'"
        ));
        let (store, _place) = store(&database.url());
        let name = |i: usize| format!("a\"b'c\\ я😀 {i}");
        {
            let lock = store.try_lock(&portal()).unwrap().unwrap();
            let before = i.checked_sub(1).map(|i| tokens_of(&name(i)).fingerprint());
            let room = lock.reserve().unwrap();
            assert_eq!(room.replace(before.as_deref(), &tokens_of(&name(i))), Ok(Replaced::Yes));
            lock.write_notes(&Notes { moved_at: 7, ..Notes::default() }).unwrap();
        }
        // Another process, to which nothing is left but what was committed.
        let (other, _place) = self::store(&database.url());
        let Installation::Installed(read) = other.read(&portal()).unwrap() else { panic!() };
        assert_eq!(read.access_token.expose(), name(i));
        assert_eq!(other.notes(&portal()).moved_at, 7);
        let entries = [Entry::Begun, done(&every_byte), done(b"")];
        assert_eq!(kept(&other, &format!("k{i}"), &entries), (entries.to_vec(), Appended::Kept));
        assert!((other.now_ms() - crate::system::clock::unix_now_ms()).abs() < 60_000, "in UTC");
    }
}

fn tokens_of(name: &str) -> crate::store::records::Tokens {
    let mut pair = serde_json::to_value(tokens("x")).unwrap();
    pair["access_token"] = name.into();
    pair["refresh_token"] = name.into();
    serde_json::from_value(pair).unwrap()
}

#[test]
fn a_body_that_no_packet_takes_is_known_to_have_been_there() {
    let database = shared(Kind::MySql).database();
    let (store, _place) = store(&database.url());
    // MariaDB's own limit is 16 MiB.
    let (most, more) = (vec![255; (16 << 20) - (4 << 10)], vec![255; 16 << 20]);
    let entries = [Entry::Begun, done(&most)];
    assert!(kept(&store, "most", &entries) == (entries.to_vec(), Appended::Kept));
    let without = Entry::Done { status: 200, content_type: "a/b".into(), body: None };
    assert!(kept(&store, "more", &[Entry::Begun, done(&more)]) == (vec![Entry::Begun, without], Appended::WithoutBody));
    assert_eq!(database.sql("SELECT c.bytes FROM b24proxy_clients AS c"), most.len().to_string());
}

#[test]
fn a_key_whose_holder_died_while_forgetting_it_is_free_and_empty() {
    let database = shared(Kind::MySql).database();
    let (store, _place) = store(&database.url());
    assert_eq!(kept(&store, "k", &[Entry::Begun, done(b"old")]).0.len(), 2);
    database.sql("UPDATE b24proxy_keys SET begun_at = NULL, entries = 0; UPDATE b24proxy_clients SET bytes = 0");
    let entries = [Entry::Begun, done(b"new")];
    assert_eq!(kept(&store, "k", &entries), (entries.to_vec(), Appended::Kept));
    assert_eq!(database.sql("SELECT count(*) FROM b24proxy_entries"), "2");
    assert_eq!(database.sql("SELECT k.bytes, c.bytes FROM b24proxy_keys AS k, b24proxy_clients AS c"), "3|3");
}

#[test]
fn what_the_server_refuses_is_told_with_its_cure_and_without_a_secret() {
    let server = Server::start(Kind::MySql);
    let database = server.database();
    let url = database.url();
    store(&url).0.check().unwrap();
    let refused = |url: &str, cure: &str| {
        let why = store(url).0.read(&portal()).map(drop).unwrap_err();
        assert!(why.contains(cure) && !why.contains(PASSWORD) && !why.contains("geheim"), "{why}");
    };
    refused(&url.replace(PASSWORD, "geheim"), "correct user and password");
    refused(&url.replace(database.name(), "b24_none"), "CREATE DATABASE");
    refused(&url.replace(database.name(), "mysql"), "ALL PRIVILEGES");
    refused("mysql://u:geheim@127.0.0.1:1/b", "nobody listens there");
    refused(&url.replace("socket", "elsewhere"), "no such socket");
    database.sql("SET GLOBAL max_connections = 10");
    let all: Vec<_> = (0..11).map(|_| store(&url)).collect();
    let full = all.iter().find_map(|(store, _)| store.check().err()).unwrap();
    assert!(full.contains("raise max_connections"), "{full}");
    drop(all);
    database.sql("SET GLOBAL max_connections = 100; SET GLOBAL read_only = 1");
    let (store, _place) = store(&url);
    assert!(store.read(&portal()).is_ok(), "it is read");
    let why = store.try_lock(&portal()).map(drop).unwrap_err();
    assert!(why.contains("it is read-only"), "{why}");
}
