//! Two nodes at one database, which may fail them.
#![cfg(all(feature = "postgres", feature = "mysql"))]

use super::Database;
use crate::store::moving::State;
use crate::store::records::{Entry, Installation, Notes};
use crate::store::test_suite::{database, portal, tokens, Temporary};
use crate::store::{Appended, Claim, Lock, Replaced, Store, QUOTA};
use crate::system::clock::Deadline;
use crate::values::bucket::{Bucket, Step, Turn};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime};
use support::database::{shared, Database as Server, Kind, Server as Machine, PASSWORD};
use support::of_every_database;

struct Node {
    store: Database,
    place: Temporary,
}

/// `processes` of one node share its folder.
fn process(node: &Temporary, server: &Server) -> Database {
    database(&server.url(), Duration::from_secs(1), &node.path().join("tokens"), QUOTA)
}

fn node(server: &Server) -> Node {
    let place = Temporary::new();
    Node { store: process(&place, server), place }
}

impl Node {
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.place.path().join("tokens")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// At once, but for what a process that another test starts inherits until it runs its program.
    fn lock(&self) -> Box<dyn Lock> {
        let moment = Deadline::after(Duration::from_secs(2));
        self.store.lock(&portal(), moment).unwrap().expect("nobody has it")
    }

    fn put(&self, expected: Option<&str>, access: &str) {
        assert_eq!(put(&*self.lock(), expected, access), Ok(Replaced::Yes));
    }

    fn stored(&self) -> Option<String> {
        match self.store.read(&portal()).unwrap() {
            Installation::Installed(tokens) => Some(tokens.access_token.expose().to_owned()),
            Installation::NotInstalled => None,
            Installation::Broken(why) => panic!("{why}"),
        }
    }
}

fn put(lock: &dyn Lock, expected: Option<&str>, access: &str) -> Result<Replaced, String> {
    let expected = expected.map(|access| tokens(access).fingerprint());
    lock.reserve()?.replace(expected.as_deref(), &tokens(access))
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(30))
}

const STEM: &str = "crm.example.org_8443";

of_every_database! {
    a_lock_is_one_nodes_and_whoever_comes_too_late_writes_nothing
    what_a_process_that_has_ended_held_is_free_at_once_on_its_node_and_soon_on_others
    a_lock_that_was_handed_over_is_not_gone_on_with_where_another_node_has_had_it_since
    a_move_that_was_held_up_for_longer_than_its_lease_marks_nothing_where_a_key_was_opened_meanwhile
    whoever_had_a_key_open_for_longer_than_its_lease_writes_nothing_once_the_portal_moves
    a_lease_is_renewed_for_as_long_as_its_holder_works
    a_pair_that_the_database_does_not_take_waits_on_its_node_and_is_stored_by_its_next_run
    a_pair_that_was_overtaken_is_not_stored_and_what_was_kept_an_hour_is_removed
    a_server_that_takes_over_and_is_behind_gets_what_was_stored_last
    of_many_processes_that_come_first_each_finds_the_tables
    many_processes_share_one_bucket
    a_key_is_held_by_a_lease_and_its_holder_comes_too_late_when_that_has_ended
    a_key_stays_its_holders_for_as_long_as_that_waits_before_it_begins
    the_keys_of_a_client_that_many_use_at_once_are_counted_rightly
    a_connection_that_was_lost_is_made_anew_and_nothing_is_done_twice
}

fn a_lock_is_one_nodes_and_whoever_comes_too_late_writes_nothing(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    one.put(None, "one");
    let late = one.lock();
    let room = late.reserve().unwrap();
    assert!(two.store.try_lock(&portal()).unwrap().is_none());
    // As if its lease had not been renewed for so long.
    server.sql("UPDATE b24proxy_portals SET lease_until = 1");
    let next = two.lock();
    next.write_notes(&Notes { moved_at: 2, ..Notes::default() }).unwrap();
    assert!(late.write_notes(&Notes { moved_at: 1, ..Notes::default() }).is_err());
    assert_eq!(put(&*next, Some("one"), "of two"), Ok(Replaced::Yes));
    assert_eq!(room.replace(Some(&tokens("one").fingerprint()), &tokens("of one")), Ok(Replaced::OtherIsStored));
    drop(late);
    assert!(one.store.try_lock(&portal()).unwrap().is_none(), "it has not given back what is another's");
    drop(next);
    assert_eq!(one.lock().notes().moved_at, 2);
    assert_eq!(one.stored().as_deref(), Some("of two"));
}

fn what_a_process_that_has_ended_held_is_free_at_once_on_its_node_and_soon_on_others(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    one.put(None, "one");
    // Killed: its lock file is free, its lease stands.
    drop(one.lock().pass_on());
    assert!(two.store.try_lock(&portal()).unwrap().is_none());
    let until: i64 = server.sql("SELECT lease_until FROM b24proxy_portals").parse().unwrap();
    let until = until - server.now_ms();
    assert!((8_000..=10_000).contains(&until), "{until}");
    drop(one.lock());
    drop(two.lock());
}

fn a_lock_that_was_handed_over_is_not_gone_on_with_where_another_node_has_had_it_since(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    one.put(None, "one");
    let passed_on = one.lock().pass_on();
    server.sql("UPDATE b24proxy_portals SET lease_until = 1");
    let passed_on = one.store.adopt_lock(&portal(), passed_on).expect("nobody else has had it").pass_on();
    server.sql("UPDATE b24proxy_portals SET lease_until = 1");
    two.put(Some("one"), "two");
    assert!(one.store.adopt_lock(&portal(), passed_on).is_err());
}

fn a_move_that_was_held_up_for_longer_than_its_lease_marks_nothing_where_a_key_was_opened_meanwhile(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    one.put(None, "one");
    let state = |node: &Node| node.store.state(&portal()).unwrap();
    let moving = one.store.still(&portal(), Deadline::after(Duration::from_secs(5))).unwrap().unwrap();
    server.sql("UPDATE b24proxy_portals SET lease_until = 1");
    let Ok(Claim::Opened(mut journal, _)) = two.store.claim("c", &portal(), "k", "what", soon()) else { panic!() };
    journal.append(&Entry::Begun).unwrap();
    drop(journal);
    assert!(moving.moved("/elsewhere").is_err());
    drop(moving);
    assert_eq!(state(&one), State::Here);
    let moving = one.store.still(&portal(), Deadline::after(Duration::from_secs(5))).unwrap().unwrap();
    moving.moved("/elsewhere").unwrap();
    assert!(matches!(state(&two), State::Marked(_)));
}

fn whoever_had_a_key_open_for_longer_than_its_lease_writes_nothing_once_the_portal_moves(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    let Ok(Claim::Opened(mut late, _)) = one.store.claim("c", &portal(), "k", "what", soon()) else { panic!() };
    server.sql("UPDATE b24proxy_keys SET lease_until = 1");
    drop(two.store.still(&portal(), Deadline::after(Duration::from_secs(5))).unwrap().unwrap());
    assert!(late.append(&Entry::Begun).is_err());
}

fn a_lease_is_renewed_for_as_long_as_its_holder_works(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    let lock = one.lock();
    let room = lock.reserve().unwrap();
    server.sql("UPDATE b24proxy_portals SET lease_until = lease_until - 6000");
    std::thread::sleep(Duration::from_millis(5000));
    assert!(two.store.try_lock(&portal()).unwrap().is_none());
    drop(room);
    drop(lock);
    drop(two.lock());
}

fn a_pair_that_the_database_does_not_take_waits_on_its_node_and_is_stored_by_its_next_run(kind: Kind) {
    let own = Machine::start(kind);
    let server = own.database();
    let (one, two) = (node(&server), node(&server));
    one.put(None, "one");
    let lock = one.lock();
    let room = lock.reserve().unwrap();
    own.kill();
    let begun = Instant::now();
    let why = room.replace(Some(&tokens("one").fingerprint()), &tokens("two")).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10) && why.contains(&format!("{STEM}.next")), "{why}");
    assert!(!why.contains(PASSWORD) && !why.contains("postgres:p"), "{why}");
    drop(lock);
    assert!(one.store.read(&portal()).is_err());
    own.resume();
    assert_eq!(two.stored().as_deref(), Some("one"), "others do not have it yet");
    // The lease of the one that wrote it still stands; it does not matter.
    assert_eq!(one.stored().as_deref(), Some("two"));
    assert_eq!(two.stored().as_deref(), Some("two"));
    assert_eq!(one.files(), [format!("{STEM}.kept"), format!("{STEM}.lock")]);
}

fn a_pair_that_was_overtaken_is_not_stored_and_what_was_kept_an_hour_is_removed(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    one.put(None, "one");
    let next = one.place.path().join(format!("tokens/{STEM}.next"));
    let written = |access: &str, replaced: &str| {
        let mut pair = serde_json::to_value(tokens(access)).unwrap();
        pair["replaces"] = tokens(replaced).fingerprint().into();
        serde_json::to_vec(&pair).unwrap()
    };
    std::fs::write(&next, written("two", "one")).unwrap();
    two.put(Some("one"), "of two");
    assert_eq!(one.stored().as_deref(), Some("of two"));
    assert_eq!(one.files(), [format!("{STEM}.kept"), format!("{STEM}.lock")]);
    for (rest, stored) in [(&b"{\"access_token\":   "[..], "of two"), (&written("three", "of two")[..], "three")] {
        std::fs::write(&next, rest).unwrap();
        assert_eq!(one.stored().as_deref(), Some(stored));
        assert!(!next.exists());
    }
    let kept = std::fs::File::options().append(true).open(next.with_extension("kept")).unwrap();
    let age = |seconds| kept.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    age(3500);
    one.stored();
    assert!(one.files().contains(&format!("{STEM}.kept")));
    age(3601);
    one.stored();
    assert_eq!(one.files(), [format!("{STEM}.lock")]);
}

fn a_server_that_takes_over_and_is_behind_gets_what_was_stored_last(kind: Kind) {
    let server = shared(kind).database();
    let one = node(&server);
    one.put(None, "one");
    one.put(Some("one"), "two");
    let fingerprint = tokens("one").fingerprint();
    let pair = serde_json::to_string(&tokens("one")).unwrap();
    server.sql(&format!("UPDATE b24proxy_portals SET pair = '{pair}', fingerprint = '{fingerprint}'"));
    drop(one.lock());
    assert_eq!(one.stored().as_deref(), Some("two"));
    // What an administrator removed stays removed.
    let first = node(&server);
    assert_eq!(one.lock().set_aside(&tokens("two").fingerprint()), Ok(Replaced::Yes));
    first.put(None, "three");
    assert_eq!(first.lock().set_aside(&tokens("three").fingerprint()), Ok(Replaced::Yes));
    drop(first.lock());
    assert_eq!(first.stored(), None);
}

fn of_many_processes_that_come_first_each_finds_the_tables(kind: Kind) {
    let server = shared(kind).database();
    let all = Barrier::new(12);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let node = node(&server);
                all.wait();
                assert_eq!(node.stored(), None);
            });
        }
    });
    assert_eq!(server.sql("SELECT version FROM b24proxy_version"), "1");
    server.sql(match kind {
        Kind::Postgres => super::postgres::SCHEMA,
        Kind::MySql => super::mysql::SCHEMA,
    });
    server.sql("UPDATE b24proxy_version SET version = 2");
    let why = node(&server).store.read(&portal()).unwrap_err();
    assert!(why.contains("version 2") && !why.contains(PASSWORD), "{why}");
}

fn many_processes_share_one_bucket(kind: Kind) {
    let server = shared(kind).database();
    let bucket = Bucket { rate: 2.0, burst: 50.0 };
    let (at_once, all) = (AtomicU32::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let node = node(&server);
                node.stored();
                all.wait();
                for _ in 0..20 {
                    // A call's reading brings the bucket along, which others may have changed when it is taken from.
                    node.stored();
                    let step =
                        Step::Take { method: "m", max_wait: Duration::from_secs(600), refused: false, calls: None };
                    match node.store.bucket(&portal(), bucket, step).expect("it can be used").turn {
                        Turn::In(wait) if wait.is_zero() => drop(at_once.fetch_add(1, Ordering::Relaxed)),
                        Turn::In(_) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert!((50..=54).contains(&at_once.load(Ordering::Relaxed)), "{at_once:?}");
}

fn a_key_is_held_by_a_lease_and_its_holder_comes_too_late_when_that_has_ended(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    let opened = |node: &Node| match node.store.claim("c", &portal(), "k", "what", soon()).unwrap() {
        Claim::Opened(journal, entries) => Some((journal, entries)),
        Claim::Busy => None,
        Claim::OtherRequest => panic!("another request"),
    };
    let (mut journal, _) = opened(&one).unwrap();
    journal.append(&Entry::Begun).unwrap();
    assert!(opened(&two).is_none());
    server.sql("UPDATE b24proxy_keys SET lease_until = 1");
    let (mut other, entries) = opened(&two).unwrap();
    assert_eq!(entries, [Entry::Begun], "unknown from here on");
    assert!(journal.append(&Entry::NotSent).is_err());
    journal.forget();
    other.append(&Entry::NotSent).unwrap();
    drop(other);
    assert_eq!(opened(&one).unwrap().1, [Entry::Begun, Entry::NotSent]);
    assert_eq!(server.sql("SELECT c.keys FROM b24proxy_clients AS c"), "1");
    server.sql("UPDATE b24proxy_keys SET begun_at = begun_at - 86400000");
    assert_eq!(opened(&two).unwrap().1, [], "after a day it is free");
    assert_eq!(server.sql("SELECT c.keys FROM b24proxy_clients AS c"), "0");
}

fn a_key_stays_its_holders_for_as_long_as_that_waits_before_it_begins(kind: Kind) {
    let server = shared(kind).database();
    let (one, two) = (node(&server), node(&server));
    let Ok(Claim::Opened(mut waiting, _)) = one.store.claim("c", &portal(), "k", "what", soon()) else { panic!() };
    server.sql("UPDATE b24proxy_keys SET lease_until = lease_until - 6000");
    std::thread::sleep(Duration::from_millis(5000));
    assert!(matches!(two.store.claim("c", &portal(), "k", "what", soon()), Ok(Claim::Busy)));
    assert_eq!(waiting.append(&Entry::Begun), Ok(Appended::Kept));
}

fn the_keys_of_a_client_that_many_use_at_once_are_counted_rightly(kind: Kind) {
    let server = shared(kind).database();
    let all = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (server, all) = (&server, &all);
            scope.spawn(move || {
                let node = node(server);
                node.stored();
                all.wait();
                for i in 0..12 {
                    let key = format!("{thread} {i}");
                    let until = Deadline::after(Duration::from_secs(5));
                    let Ok(Claim::Opened(mut journal, _)) = node.store.claim("c", &portal(), &key, "what", until)
                    else {
                        panic!("{key}")
                    };
                    assert_eq!(journal.append(&Entry::Begun), Ok(Appended::Kept), "{key}");
                    let body = Some(b"12345"[..].into());
                    let done = Entry::Done { status: 200, content_type: "a/b".into(), body };
                    assert_eq!(journal.append(&done), Ok(Appended::Kept), "{key}");
                    match i % 3 {
                        0 => journal.forget(),
                        _ => drop(journal),
                    }
                    if i == 6 {
                        // The next one sweeps.
                        server.sql("UPDATE b24proxy_clients SET swept_at = 0");
                    }
                }
            });
        }
    });
    assert_eq!(server.sql("SELECT c.keys, c.bytes FROM b24proxy_clients AS c"), "64|320");
    assert_eq!(server.sql("SELECT count(*) FROM b24proxy_keys"), "64");
}

fn a_connection_that_was_lost_is_made_anew_and_nothing_is_done_twice(kind: Kind) {
    let own = Machine::start(kind);
    let server = own.database();
    let one = node(&server);
    one.put(None, "one");
    let lock = one.lock();
    let Ok(Claim::Opened(mut journal, _)) = one.store.claim("c", &portal(), "k", "what", soon()) else { panic!() };
    let lost = || server.lose_connections();
    lost();
    journal.append(&Entry::Begun).unwrap();
    own.kill();
    own.resume();
    journal.append(&Entry::NotSent).unwrap();
    lost();
    lock.write_notes(&Notes::default()).unwrap();
    lost();
    assert_eq!(put(&*lock, Some("one"), "two"), Ok(Replaced::Yes));
    drop(journal);
    let count = "SELECT c.keys, (SELECT count(*) FROM b24proxy_entries WHERE number >= 0) FROM b24proxy_clients AS c";
    assert_eq!(server.sql(count), "1|2");
    // Frozen, it takes connections and answers none.
    own.freeze();
    let begun = Instant::now();
    assert!(one.store.read(&portal()).is_err());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    own.thaw();
    assert_eq!(one.stored().as_deref(), Some("two"));
}

#[test]
fn what_must_not_be_lost_is_durable_whatever_the_servers_default_is() {
    let server = shared(Kind::Postgres).database();
    drop(node(&server).lock());
    server.sql(
        "CREATE TABLE seen (what text, level text); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO seen VALUES (tg_table_name || ' ' || tg_op, current_setting('synchronous_commit')); RETURN NULL; END $$; \
         CREATE TRIGGER see AFTER INSERT OR UPDATE ON b24proxy_portals FOR EACH STATEMENT EXECUTE FUNCTION see(); \
         CREATE TRIGGER see AFTER INSERT OR UPDATE ON b24proxy_entries FOR EACH STATEMENT EXECUTE FUNCTION see()",
    );
    let levels = |default: &str| {
        let name = server.sql("SELECT current_database()");
        server.sql(&format!("ALTER DATABASE {name} SET synchronous_commit = {default}; TRUNCATE seen"));
        let node = node(&server);
        let key = format!("of {default}");
        let lock = node.lock();
        lock.write_notes(&Notes::default()).unwrap();
        let Ok(Claim::Opened(mut journal, _)) = node.store.claim("c", &portal(), &key, "what", soon()) else {
            panic!()
        };
        server.sql("TRUNCATE seen");
        journal.append(&Entry::Begun).unwrap();
        journal.append(&Entry::NotSent).unwrap();
        lock.write_notes(&Notes::default()).unwrap();
        assert_eq!(put(&*lock, None, "x"), Ok(Replaced::Yes));
        assert_eq!(put(&*lock, Some("x"), "y"), Ok(Replaced::Yes));
        assert_eq!(lock.set_aside(&tokens("y").fingerprint()), Ok(Replaced::Yes));
        server.sql("SELECT DISTINCT level FROM seen WHERE what NOT LIKE '%portals INSERT'")
    };
    assert_eq!(levels("off"), "on");
    assert_eq!(levels("local"), "on");
}
