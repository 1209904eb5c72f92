//! The obligations of a storage, tested on every kind of it: a line in [`of_every_kind!`] for each.

use super::file::Folder;
use super::records::{Entry, Installation, LastRefresh, Notes, Tokens};
use super::test_moving::*;
use super::{Appended, Claim, Journal, Lock, Quota, Replaced, Store};
use crate::system::clock::Deadline;
use crate::values::bucket::{Bucket, Known, Step, Turn};
use crate::values::portal::PortalName;
use crate::values::tally::{Calls, What};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Barrier;
use std::time::Duration;

/// A folder that is removed when it is dropped.
pub struct Temporary(PathBuf);

impl Temporary {
    pub fn new() -> Temporary {
        Temporary(std::env::temp_dir().join(format!("b24proxy-store-{}", crate::values::secret::random_hex::<8>())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn portal() -> PortalName {
    PortalName::parse("crm.example.org:8443").unwrap()
}

/// A pair whose refresh token is its access token too.
pub fn tokens(access: &str) -> Tokens {
    serde_json::from_str(&format!(
        r#"{{"member_id":"m","client_endpoint":"https://crm.example.org:8443/rest/","access_token":"{access}",
           "refresh_token":"{access}","expires_at":1,"user_id":"7"}}"#
    ))
    .unwrap()
}

/// A storage of its own for one test.
struct Fixture {
    store: Box<dyn Store>,
    /// What it lies in, removed at the end.
    _place: Temporary,
}

const FEW: Quota = Quota { keys: 3, bytes: 600 };

fn files() -> Fixture {
    let place = Temporary::new();
    Fixture { store: Box::new(Folder::with_quota(&place.path().join("tokens"), FEW)), _place: place }
}

#[cfg(feature = "postgres")]
fn postgres() -> Fixture {
    use support::database::{shared, Kind};
    on_database(&shared(Kind::Postgres).database().url())
}

/// Through a pooler, which gives each transaction another connection to the server.
#[cfg(feature = "postgres")]
fn pooled_postgres() -> Fixture {
    use support::database::{shared, Kind};
    on_database(&support::postgres::pooler().url(&shared(Kind::Postgres).database()))
}

#[cfg(feature = "mysql")]
fn mysql() -> Fixture {
    use support::database::{shared, Kind};
    on_database(&shared(Kind::MySql).database().url())
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn on_database(url: &str) -> Fixture {
    let place = Temporary::new();
    let store = database(url, Duration::from_secs(5), &place.path().join("tokens"), FEW);
    Fixture { store: Box::new(store), _place: place }
}

/// A process of a node with this folder.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub fn database(url: &str, patience: Duration, folder: &Path, quota: Quota) -> super::database::Database {
    use super::database::{Connect, Database};
    use crate::values::database::{Address, Kind};
    let address = Address::parse(url).unwrap();
    let name = address.to_string();
    let connect: Connect = match address.kind {
        #[cfg(feature = "postgres")]
        Kind::Postgres => Box::new(move || {
            super::database::postgres::connect(&address, patience, &|_| Err("no TLS here".into()), ToString::to_string)
        }),
        #[cfg(feature = "mysql")]
        Kind::MySql => Box::new(move || super::database::mysql::connect(&address, patience, None, ToString::to_string)),
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        kind => panic!("there is no {kind:?} in this build"),
    };
    Database::new(connect, name, folder, quota, true)
}

/// Each sentence as a test of each kind of storage.
macro_rules! of_every_kind {
    ($($sentence:ident)*) => {
        of_every_kind!(@ files $($sentence)*);
        #[cfg(feature = "postgres")]
        of_every_kind!(@ postgres $($sentence)*);
        #[cfg(feature = "postgres")]
        of_every_kind!(@ pooled_postgres $($sentence)*);
        #[cfg(feature = "mysql")]
        of_every_kind!(@ mysql $($sentence)*);
    };
    (@ $kind:ident $($sentence:ident)*) => {
        mod $kind {
            $(
                #[test]
                fn $sentence() {
                    super::$sentence(&*super::$kind().store);
                }
            )*
        }
    };
}

of_every_kind! {
    a_pair_is_stored_under_the_lock_and_read_without
    one_at_a_time_has_the_lock_of_a_portal_and_whoever_waits_gets_it_or_gives_up
    a_pair_is_replaced_only_while_the_expected_one_is_stored
    a_pair_is_set_aside_only_while_it_is_the_expected_one
    notes_are_replaced_whole_and_seen_by_the_next_holder
    a_lock_is_passed_on_without_a_gap
    the_bucket_is_shared_and_gives_each_its_place
    calls_are_counted_by_all_and_seen_by_all
    an_answer_is_kept_and_another_request_told
    a_key_is_open_at_one_place_only
    a_dropped_key_is_left_as_it_stands_and_a_forgotten_one_is_free
    keys_are_bounded_and_the_others_still_answer
    a_body_that_finds_no_room_is_known_to_have_been_there
    keys_of_clients_and_portals_are_apart
    of_many_threads_that_open_one_key_one_begins
    what_is_kept_of_a_portal_moves_whole_there_and_back
    a_portal_that_has_not_arrived_is_used_by_nobody
    a_portal_keeps_still_when_no_key_of_it_is_open_and_none_is_opened_then
    a_move_that_was_broken_off_at_any_step_is_ended_by_the_next_one
}

/// A process that another thread starts has for a moment all that is open here, locks too.
pub fn lock(store: &dyn Store) -> Box<dyn Lock> {
    let tries = std::iter::repeat_with(|| {
        let lock = store.try_lock(&portal()).unwrap();
        if lock.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        lock
    });
    tries.take(100).flatten().next().expect("nobody holds it")
}

pub fn stored(store: &dyn Store) -> Option<String> {
    match store.read(&portal()).unwrap() {
        Installation::Installed(tokens) => Some(tokens.access_token.expose().to_owned()),
        Installation::NotInstalled => None,
        Installation::Broken(why) => panic!("{why}"),
    }
}

pub fn put(lock: &dyn Lock, expected: Option<&str>, access: &str) -> Replaced {
    let expected = expected.map(|access| tokens(access).fingerprint());
    lock.reserve().unwrap().replace(expected.as_deref(), &tokens(access)).unwrap()
}

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(30))
}

fn a_pair_is_stored_under_the_lock_and_read_without(store: &dyn Store) {
    store.check().unwrap();
    assert_eq!(stored(store), None);
    let lock = lock(store);
    assert_eq!(put(&*lock, None, "one"), Replaced::Yes);
    assert_eq!(stored(store).as_deref(), Some("one"));
    drop(lock.reserve().unwrap());
    assert_eq!(stored(store).as_deref(), Some("one"), "room that was not used");
    let Ok(Installation::Installed(read)) = lock.read() else { panic!() };
    assert_eq!((read.access_token.expose(), read.user_id), ("one", 7));
    assert!(store.place(&portal()).full.contains(&store.place(&portal()).name));
}

fn one_at_a_time_has_the_lock_of_a_portal_and_whoever_waits_gets_it_or_gives_up(store: &dyn Store) {
    let held = lock(store);
    assert!(store.try_lock(&portal()).unwrap().is_none());
    assert!(store.lock(&portal(), soon()).unwrap().is_none());
    let other = PortalName::parse("other.example.org").unwrap();
    assert!(store.try_lock(&other).unwrap().is_some(), "another portal's");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| store.lock(&portal(), Deadline::after(Duration::from_secs(5))).unwrap().is_some());
        std::thread::sleep(Duration::from_millis(30));
        drop(held);
        assert!(waiter.join().unwrap());
    });
}

fn a_pair_is_replaced_only_while_the_expected_one_is_stored(store: &dyn Store) {
    let lock = lock(store);
    assert_eq!(put(&*lock, Some("one"), "two"), Replaced::OtherIsStored, "nothing is stored");
    assert_eq!(put(&*lock, None, "one"), Replaced::Yes);
    assert_eq!(put(&*lock, None, "two"), Replaced::OtherIsStored);
    assert_eq!(put(&*lock, Some("zero"), "two"), Replaced::OtherIsStored);
    assert_eq!(stored(store).as_deref(), Some("one"));
    assert_eq!(put(&*lock, Some("one"), "two"), Replaced::Yes);
    drop(lock);
    drop(store.try_lock(&portal()).unwrap());
    assert_eq!(stored(store).as_deref(), Some("two"), "nothing of the others is left to be put in place");
}

fn a_pair_is_set_aside_only_while_it_is_the_expected_one(store: &dyn Store) {
    let lock = lock(store);
    assert_eq!(lock.set_aside(&tokens("one").fingerprint()).unwrap(), Replaced::OtherIsStored);
    assert_eq!(put(&*lock, None, "one"), Replaced::Yes);
    assert_eq!(lock.set_aside(&tokens("two").fingerprint()).unwrap(), Replaced::OtherIsStored);
    assert_eq!(stored(store).as_deref(), Some("one"));
    assert_eq!(lock.set_aside(&tokens("one").fingerprint()).unwrap(), Replaced::Yes);
    assert_eq!(stored(store), None);
}

fn notes_are_replaced_whole_and_seen_by_the_next_holder(store: &dyn Store) {
    let first = lock(store);
    assert_eq!(first.notes(), Notes::default());
    let long = Notes { attempts: vec![1_000_000; 60], refresh: None, ..Notes::default() };
    first.write_notes(&long).unwrap();
    assert_eq!(first.notes(), long);
    let refresh = LastRefresh { spent: "s".into(), at: 5, failure: None, interrupted: true };
    let short = Notes { attempts: vec![4], refresh: Some(refresh), moved_at: 7 };
    first.write_notes(&short).unwrap();
    drop(first);
    assert_eq!(lock(store).notes(), short);
    assert_eq!(store.notes(&portal()), short);
}

fn a_lock_is_passed_on_without_a_gap(store: &dyn Store) {
    let passed_on = lock(store).pass_on();
    assert!(store.try_lock(&portal()).unwrap().is_none(), "on its way");
    let adopted = store.adopt_lock(&portal(), passed_on).unwrap();
    assert!(store.try_lock(&portal()).unwrap().is_none(), "adopted");
    drop(adopted);
    let foreign = lock(store).pass_on();
    let other = PortalName::parse("other.example.org").unwrap();
    assert!(store.adopt_lock(&other, foreign).is_err(), "the lock of another portal");
}

fn the_bucket_is_shared_and_gives_each_its_place(store: &dyn Store) {
    store.check().unwrap();
    let bucket = Bucket { rate: 2.0, burst: 50.0 };
    let (at_once, all) = (AtomicU32::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                all.wait();
                for _ in 0..40 {
                    let step =
                        Step::Take { method: "m", max_wait: Duration::from_secs(600), refused: false, calls: None };
                    match store.bucket(&portal(), bucket, step).map(|told| told.turn) {
                        Some(Turn::In(wait)) if wait.is_zero() => drop(at_once.fetch_add(1, Ordering::Relaxed)),
                        Some(Turn::In(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    // It drains while they take.
    assert!((50..=54).contains(&at_once.load(Ordering::Relaxed)), "{at_once:?}");
    let told = |step| store.bucket(&portal(), bucket, step).expect("it can be used");
    assert_eq!(told(Step::Block { method: "m", until: None }).turn, Turn::Blocked { retry_after: 60 });
    let step = Step::Take { method: "m", max_wait: Duration::from_secs(60), refused: false, calls: None };
    assert!(matches!(told(step).turn, Turn::Blocked { .. }) && !told(step).swallows_header);
    assert!(matches!(told(Step::Ask { method: "m" }).turn, Turn::Blocked { .. }));
    assert_eq!(told(Step::Ask { method: "other" }).turn, Turn::In(Duration::ZERO));
    told(Step::Overload);
    assert!(matches!(told(Step::Ask { method: "other" }).turn, Turn::Overloaded { .. }));
    assert!(!told(Step::Swallows).swallows_header && told(Step::Count).swallows_header);
}

/// What calls have shown is kept with the bucket, for all who share it, and can be looked at without a change.
fn calls_are_counted_by_all_and_seen_by_all(store: &dyn Store) {
    store.check().unwrap();
    assert_eq!(store.known(&portal()), Known::default());
    let bucket = Bucket { rate: 1000.0, burst: 1000.0 };
    let told = |step| store.bucket(&portal(), bucket, step).expect("it can be used");
    std::thread::scope(|scope| {
        for client in ["a", "b", "c", "d"] {
            scope.spawn(move || {
                for _ in 0..20 {
                    let calls = Some(Calls { client: Some(client), count: 1 });
                    told(Step::Take { method: "m", max_wait: Duration::from_secs(600), refused: false, calls });
                }
            });
        }
    });
    let calls = store.known(&portal()).tally.by_client(What::Calls, store.now()).day;
    assert_eq!(calls, ["a", "b", "c", "d"].map(|client| (client.to_owned(), 20)).into());
    assert_eq!(store.known(&portal()), store.known(&portal()), "looking changes nothing");
    // One of all who ask tries.
    assert_eq!(told(Step::Try).turn, Turn::In(Duration::ZERO));
    assert!(matches!(told(Step::Try).turn, Turn::TooLate { .. }));
}

fn claim(store: &dyn Store, key: &str, request: &str) -> Claim {
    store.claim("client", &portal(), key, request, soon()).unwrap()
}

pub fn opened(store: &dyn Store, key: &str) -> (Box<dyn Journal>, Vec<Entry<'static>>) {
    match claim(store, key, "what") {
        Claim::Opened(journal, entries) => (journal, entries),
        Claim::OtherRequest => panic!("another request"),
        Claim::Busy => panic!("busy"),
    }
}

pub fn done(body: &str) -> Entry<'static> {
    Entry::Done { status: 200, content_type: "a/b".into(), body: Some(Cow::Owned(body.as_bytes().to_vec())) }
}

fn an_answer_is_kept_and_another_request_told(store: &dyn Store) {
    let (mut journal, entries) = opened(store, "k");
    assert_eq!(entries, []);
    let results = |body: &'static [u8]| Entry::Results {
        calls: 3,
        errors: 1,
        halted: false,
        pending: vec![1],
        body: Some(body.into()),
    };
    let sent = [
        Entry::Begun,
        Entry::Sending { calls: 2, held: vec![] },
        Entry::NotSent,
        Entry::Sending { calls: 3, held: vec![1] },
        results(b"1,2,3"),
        Entry::SendingAgain { calls: vec![1] },
        Entry::ResultsAgain { calls: vec![1], body: Some(Cow::Borrowed(b"{}")) },
        Entry::ResultsAgain { calls: vec![1], body: None },
        done("{\"a\":\n1}"),
        done(""),
    ];
    for entry in &sent {
        assert_eq!(journal.append(entry), Ok(Appended::Kept));
    }
    drop(journal);
    assert_eq!(opened(store, "k").1, sent);
    assert!(matches!(claim(store, "k", "other"), Claim::OtherRequest));
    assert_eq!(opened(store, "another key").1, []);
}

fn a_key_is_open_at_one_place_only(store: &dyn Store) {
    let (mut journal, _) = opened(store, "k");
    assert!(matches!(claim(store, "k", "what"), Claim::Busy), "before it begins");
    journal.append(&Entry::Begun).unwrap();
    assert!(matches!(claim(store, "k", "what"), Claim::Busy));
    assert!(matches!(claim(store, "l", "what"), Claim::Opened(..)));
    drop(journal);
    assert!(matches!(claim(store, "k", "what"), Claim::Opened(..)));
}

fn a_dropped_key_is_left_as_it_stands_and_a_forgotten_one_is_free(store: &dyn Store) {
    let (mut journal, _) = opened(store, "k");
    journal.append(&Entry::Begun).unwrap();
    drop(journal);
    assert_eq!(opened(store, "k").1, [Entry::Begun]);
    opened(store, "k").0.forget();
    assert_eq!(opened(store, "k").1, []);
    let (mut journal, _) = opened(store, "k");
    journal.append(&Entry::Begun).unwrap();
    journal.last_will()();
    drop(journal);
    assert_eq!(opened(store, "k").1, []);
    let (journal, _) = opened(store, "never begun");
    drop(journal);
    assert!(matches!(claim(store, "never begun", "other"), Claim::Opened(_, entries) if entries.is_empty()));
}

fn keys_are_bounded_and_the_others_still_answer(store: &dyn Store) {
    for key in ["a", "b", "c"] {
        let (mut journal, _) = opened(store, key);
        journal.append(&Entry::Begun).unwrap();
        journal.append(&done("{}")).unwrap();
    }
    let (mut journal, _) = opened(store, "d");
    assert!(matches!(journal.append(&Entry::Begun), Ok(Appended::Full { retry_after: 86_000..=86_400 })));
    drop(journal);
    assert_eq!(opened(store, "d").1, [], "nothing was written");
    assert_eq!(opened(store, "a").1, [Entry::Begun, done("{}")]);
    opened(store, "b").0.forget();
    assert_eq!(opened(store, "d").0.append(&Entry::Begun), Ok(Appended::Kept), "a place was given back");
}

fn a_body_that_finds_no_room_is_known_to_have_been_there(store: &dyn Store) {
    let (mut journal, _) = opened(store, "k");
    journal.append(&Entry::Begun).unwrap();
    assert_eq!(journal.append(&done(&"x".repeat(601))), Ok(Appended::WithoutBody));
    assert_eq!(journal.append(&done("y")), Ok(Appended::Kept));
    drop(journal);
    let without = Entry::Done { status: 200, content_type: "a/b".into(), body: None };
    assert_eq!(opened(store, "k").1, [Entry::Begun, without, done("y")]);
}

fn keys_of_clients_and_portals_are_apart(store: &dyn Store) {
    let other = PortalName::parse("other.example.org").unwrap();
    let (mut journal, _) = opened(store, "k");
    journal.append(&Entry::Begun).unwrap();
    let free = |client: &str, portal: &PortalName| {
        let claim = store.claim(client, portal, "k", "another request", soon()).unwrap();
        matches!(claim, Claim::Opened(_, entries) if entries.is_empty())
    };
    assert!(free("another client", &portal()) && free("client", &other));
}

fn of_many_threads_that_open_one_key_one_begins(store: &dyn Store) {
    let begun = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let until = Deadline::after(Duration::from_secs(10));
                let claim = store.claim("client", &portal(), "k", "what", until).unwrap();
                let Claim::Opened(mut journal, entries) = claim else { panic!("not opened") };
                if entries.is_empty() {
                    begun.fetch_add(1, Ordering::Relaxed);
                    journal.append(&Entry::Begun).unwrap();
                }
            });
        }
    });
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}
