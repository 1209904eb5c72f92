//! The obligations of a storage, tested on every kind of it: a line in [`of_every_kind!`] for each.

use super::file::Folder;
use super::records::{Entry, Installation, LastRefresh, Notes, Tokens};
use super::test_moving::*;
use super::{Appended, Claim, Events, Journal, Lock, Quota, Replaced, Store, Wish, MOST_AT_ONCE};
use crate::system::clock::Deadline;
use crate::values::bucket::{Bucket, Known, Step, Turn};
use crate::values::event::{Bounds, EventName};
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
    events_are_numbered_in_order_from_1_and_read_without_being_consumed
    of_many_threads_that_take_events_each_gets_the_next_number
    events_of_portals_are_apart
    events_that_are_too_many_too_large_together_or_too_old_are_dropped_and_counted
    a_number_is_never_used_again_though_all_events_were_dropped
    only_wanted_events_are_given_and_the_others_are_passed_over
    events_that_are_large_together_are_given_in_parts
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

/// More than a test has.
pub const MANY: Bounds = Bounds { keep: Duration::from_secs(3600), most: 1_000_000, max_size: 1 << 30 };

pub fn name() -> EventName {
    EventName::parse("onCrmDealAdd").unwrap()
}

/// The number of an event that was taken with this text.
pub fn event_taken(store: &dyn Store, text: &str) -> u64 {
    store.take_event(&portal(), &name(), &format!("{{\"text\":{text:?}}}"), &MANY).unwrap()
}

pub fn wish(after: u64, most: usize) -> Wish<'static> {
    Wish { after, most, is_wanted: &|_| true }
}

fn events(store: &dyn Store, after: u64, most: usize, bounds: &Bounds) -> Events {
    store.events(&portal(), &wish(after, most), bounds).unwrap()
}

/// The numbers of those behind `after`, and their texts.
pub fn texts(store: &dyn Store, after: u64, bounds: &Bounds) -> Vec<(u64, String)> {
    let text =
        |data: &str| serde_json::from_str::<serde_json::Value>(data).unwrap()["text"].as_str().unwrap().to_owned();
    events(store, after, 1000, bounds).events.iter().map(|event| (event.number, text(&event.data))).collect()
}

fn numbers(found: &Events) -> Vec<u64> {
    found.events.iter().map(|event| event.number).collect()
}

fn events_are_numbered_in_order_from_1_and_read_without_being_consumed(store: &dyn Store) {
    assert_eq!(events(store, 0, 10, &MANY), Events::default());
    assert_eq!(events(store, 7, 10, &MANY), Events::default());
    assert_eq!(store.last_event(&portal()).unwrap(), 0);
    for number in 1..=20 {
        let data = format!("{{\"FIELDS\":{{\"ID\":\"{number}\",\"text\":\"Ж\\n\\u0000'\\\"\\\\\"}}}}");
        assert_eq!(store.take_event(&portal(), &name(), &data, &MANY).unwrap(), number);
        assert_eq!(store.last_event(&portal()).unwrap(), number);
        let found = events(store, number - 1, 10, &MANY);
        assert_eq!((found.last, found.lost), (number, 0));
        let [event] = found.events.as_slice() else { panic!("{found:?}") };
        assert_eq!((event.number, event.name.as_str(), event.data.as_str()), (number, "onCrmDealAdd", data.as_str()));
        assert!((event.at_ms - store.now_ms()).abs() < 10_000);
    }
    for _ in 0..2 {
        let found = events(store, 5, 10, &MANY);
        assert_eq!((numbers(&found), found.last, found.lost), ((6..=15).collect(), 15, 0));
    }
    let none = Events { last: 20, ..Events::default() };
    assert_eq!(events(store, 20, 10, &MANY), none);
    // Another storage's number.
    assert_eq!(numbers(&events(store, 21, 3, &MANY)), [1, 2, 3]);
    assert_eq!(numbers(&events(store, u64::MAX, 3, &MANY)), [1, 2, 3]);
}

fn of_many_threads_that_take_events_each_gets_the_next_number(store: &dyn Store) {
    let all = Barrier::new(8);
    let mut taken: Vec<(u64, String)> = std::thread::scope(|scope| {
        let taking = |thread: u32| {
            let all = &all;
            scope.spawn(move || {
                all.wait();
                let text = |i: u32| format!("{thread} {i}");
                (0..25).map(|i| (event_taken(store, &text(i)), text(i))).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..8).map(taking).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    taken.sort();
    assert_eq!(taken.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert_eq!(texts(store, 0, &MANY), taken);
}

fn events_of_portals_are_apart(store: &dyn Store) {
    let other = PortalName::parse("other.example.org").unwrap();
    assert_eq!(event_taken(store, "a"), 1);
    assert_eq!(store.take_event(&other, &name(), "{}", &MANY).unwrap(), 1);
    assert_eq!(event_taken(store, "b"), 2);
    assert_eq!(texts(store, 0, &MANY), [(1, "a".to_owned()), (2, "b".to_owned())]);
    assert_eq!(store.events(&other, &wish(0, 10), &MANY).unwrap().events.len(), 1);
}

fn events_that_are_too_many_too_large_together_or_too_old_are_dropped_and_counted(store: &dyn Store) {
    for number in 1..=30 {
        assert_eq!(event_taken(store, &"x".repeat(100)), number);
    }
    let given = |after, bounds: Bounds| {
        let found = events(store, after, 1000, &bounds);
        (found.events.first().map(|event| event.number), found.events.len(), found.last, found.lost)
    };
    let few = Bounds { most: 7, ..MANY };
    assert_eq!(given(0, few), (Some(24), 7, 30, 23));
    assert_eq!(given(20, few), (Some(24), 7, 30, 3));
    assert_eq!(given(25, few), (Some(26), 5, 30, 0));
    assert_eq!(given(99, few), (Some(24), 7, 30, 23));
    let size = events(store, 29, 1, &MANY).events[0].size() as u64;
    for (max_size, kept) in [(5 * size, 5), (5 * size - 1, 4), (size, 1), (size - 1, 0)] {
        let first = (kept > 0).then_some(31 - kept as u64);
        let bounds = Bounds { max_size, ..MANY };
        assert_eq!(given(0, bounds), (first, kept, 30, 30 - kept as u64), "{max_size}");
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(event_taken(store, "young"), 31);
    let young = Bounds { keep: Duration::from_millis(200), ..MANY };
    assert_eq!(given(0, young), (Some(31), 1, 31, 30));
    // What is dropped when it is taken is dropped for good, and those that are within the bounds stay.
    for number in 32..=300 {
        assert_eq!(store.take_event(&portal(), &name(), "{}", &few).unwrap(), number);
    }
    assert_eq!(given(0, few), (Some(294), 7, 300, 293));
}

fn a_number_is_never_used_again_though_all_events_were_dropped(store: &dyn Store) {
    let none = Bounds { keep: Duration::ZERO, most: 1, max_size: 1 };
    for number in 1..=150 {
        assert_eq!(store.take_event(&portal(), &name(), "{}", &none).unwrap(), number);
    }
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(events(store, 0, 10, &none), Events { events: vec![], last: 150, lost: 150 });
    assert_eq!(event_taken(store, "next"), 151);
}

fn only_wanted_events_are_given_and_the_others_are_passed_over(store: &dyn Store) {
    let deal = |name: &str| name == "D";
    let take = |text: &str| store.take_event(&portal(), &EventName::parse(text).unwrap(), "{}", &MANY).unwrap();
    let asked = |after, most| {
        let found = store.events(&portal(), &Wish { after, most, is_wanted: &deal }, &MANY).unwrap();
        (numbers(&found), found.last, found.lost)
    };
    for text in ["L", "L", "D", "L", "D", "L", "L"] {
        take(text);
    }
    assert_eq!(asked(0, 10), (vec![3, 5], 7, 0));
    assert_eq!(asked(0, 2), (vec![3, 5], 7, 0));
    assert_eq!(asked(0, 1), (vec![3], 4, 0));
    assert_eq!(asked(5, 10), (vec![], 7, 0));
    for _ in 0..500 {
        take("L");
    }
    assert_eq!(take("D"), 508);
    assert_eq!(asked(5, 10), (vec![508], 508, 0));
}

fn events_that_are_large_together_are_given_in_parts(store: &dyn Store) {
    let large = "x".repeat(MOST_AT_ONCE / 3);
    for number in 1..=5 {
        assert_eq!(event_taken(store, &large), number);
    }
    assert_eq!(event_taken(store, &large.repeat(4)), 6);
    let mut after = 0;
    for expected in [vec![1, 2], vec![3, 4], vec![5], vec![6]] {
        let found = events(store, after, 1000, &MANY);
        assert_eq!(numbers(&found), expected);
        after = found.last;
    }
}
