//! What a storage promises of a portal that moves, in either direction.

use super::file::Folder;
use super::moving::{carry, step, KeptKey, State, Step, Still};
use super::records::{Entry, Event, Installation, Notes, Tokens};
use super::test_suite::{
    done, event_taken, lock, name, opened, portal, put, soon, stored, texts, tokens, wish, Temporary, MANY,
};
use super::{Claim, Replaced, Store};
use crate::system::clock::Deadline;
use crate::system::disk::Reason;
use crate::values::event::Bounds;
use crate::values::moved::{told_in, Mark};
use std::cell::Cell;
use std::time::Duration;

fn still(store: &dyn Store) -> Box<dyn Still + '_> {
    store.still(&portal(), Deadline::after(Duration::from_secs(10))).unwrap().expect("nobody is at it")
}

/// Of one that can be used.
fn key(store: &dyn Store, key: &str) -> Vec<Entry<'static>> {
    opened(store, key).1
}

fn fill(store: &dyn Store) {
    let lock = lock(store);
    assert_eq!(put(&*lock, None, "one"), Replaced::Yes);
    lock.write_notes(&notes()).unwrap();
    drop(lock);
    for (name, entry) in [("done", Some(done("{\"a\":\n1}"))), ("unknown", None)] {
        let (mut journal, _) = opened(store, name);
        journal.append(&Entry::Begun).unwrap();
        if let Some(entry) = entry {
            journal.append(&entry).unwrap();
        }
    }
    for number in 1..=12 {
        assert_eq!(event_taken(store, &number.to_string()), number);
    }
}

/// Of the events the first two have been dropped.
const OF_EVENTS: Bounds = Bounds { most: 10, ..MANY };

fn notes() -> Notes {
    Notes { moved_at: 7, ..Notes::default() }
}

#[track_caller]
fn assert_whole(store: &dyn Store) {
    assert_eq!(stored(store).as_deref(), Some("one"));
    assert_eq!(store.notes(&portal()), notes());
    assert_eq!(key(store, "done"), [Entry::Begun, done("{\"a\":\n1}")]);
    assert_eq!(key(store, "unknown"), [Entry::Begun]);
    assert_eq!(key(store, "never"), []);
    let kept: Vec<_> = (3..=12).map(|number: u64| (number, number.to_string())).collect();
    assert_eq!((texts(store, 0, &OF_EVENTS), store.last_event(&portal()).unwrap()), (kept, 12));
    assert!(matches!(store.claim("client", &portal(), "done", "other", soon()), Ok(Claim::OtherRequest)));
}

/// It says where the portal is, and does nothing for it.
#[track_caller]
fn assert_elsewhere(store: &dyn Store, place: &str) {
    let says = |why: &Reason| told_in(why).is_some_and(|said| said.contains(place));
    assert!(store.read(&portal()).is_err_and(|why| says(&why)));
    assert!(store.claim("client", &portal(), "new", "what", soon()).is_err_and(|why| says(&why)));
    assert!(store.events(&portal(), &wish(0, 10), &MANY).is_err_and(|why| says(&why)));
    assert!(store.take_event(&portal(), &name(), "{}", &MANY).is_err_and(|why| says(&why)));
    assert!(lock(store).read().is_err_and(|why| says(&why)), "so that no installation replaces it");
}

fn moved(from: &dyn Store, to: &dyn Store) {
    let keys = carry(&*still(from), &*still(to), "/from", "/to").unwrap();
    assert_eq!(keys, 2);
}

pub fn what_is_kept_of_a_portal_moves_whole_there_and_back(store: &dyn Store) {
    let place = Temporary::new();
    let files = Folder::new(&place.path().join("tokens"));
    fill(store);
    assert_eq!(store.portals().unwrap(), [portal()]);
    moved(store, &files);
    assert_whole(&files);
    assert_elsewhere(store, "/to");
    assert_eq!(store.state(&portal()).unwrap(), State::Marked(Mark::Moved { to: "/to".into() }));
    moved(&files, store);
    assert_whole(store);
    assert_elsewhere(&files, "/to");
}

pub fn a_portal_that_has_not_arrived_is_used_by_nobody(store: &dyn Store) {
    {
        let still = still(store);
        still.expect("/from").unwrap();
        still.put(Some(&tokens("one")), &Notes::default()).unwrap();
    }
    assert_elsewhere(store, "/from");
    still(store).arrived().unwrap();
    assert_eq!(stored(store).as_deref(), Some("one"));
    assert_eq!(key(store, "new"), []);
}

pub fn a_portal_keeps_still_when_no_key_of_it_is_open_and_none_is_opened_then(store: &dyn Store) {
    let (mut journal, _) = opened(store, "k");
    journal.append(&Entry::Begun).unwrap();
    assert!(store.still(&portal(), soon()).unwrap().is_none(), "a call is under way");
    drop(journal);
    let kept = still(store);
    assert_eq!(
        (store.state(&portal()).unwrap(), store.last_event(&portal())),
        (State::Here, Ok(0)),
        "it can be looked at"
    );
    assert!(matches!(store.claim("client", &portal(), "k", "what", soon()), Ok(Claim::Busy)));
    assert!(matches!(store.claim("client", &portal(), "new", "what", soon()), Ok(Claim::Busy)));
    assert!(store.still(&portal(), soon()).unwrap().is_none(), "one move at a time");
    assert!(store.try_lock(&portal()).unwrap().is_none(), "no refresh");
    std::thread::scope(|scope| {
        let (told, telling) = std::sync::mpsc::channel();
        scope.spawn(move || told.send(store.take_event(&portal(), &name(), "{}", &MANY)).unwrap());
        assert!(telling.recv_timeout(Duration::from_millis(300)).is_err(), "no event");
        drop(kept);
        assert_eq!(telling.recv_timeout(Duration::from_secs(20)), Ok(Ok(1)));
    });
    assert_eq!(key(store, "k"), [Entry::Begun]);
    assert!(store.try_lock(&portal()).unwrap().is_some());
}

/// Fails at one of the steps of a move: as whoever is killed there leaves it.
struct Breaking<'s> {
    still: Box<dyn Still + 's>,
    left: &'s Cell<u32>,
}

impl Breaking<'_> {
    fn step(&self) -> Result<(), Reason> {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 {
            Err("broken off".into())
        } else {
            Ok(())
        }
    }
}

impl Still for Breaking<'_> {
    fn belongings(&self) -> Result<(Option<Tokens>, Notes), Reason> {
        self.still.belongings()
    }

    fn each_key(&self, take: &mut dyn FnMut(KeptKey) -> Result<(), Reason>) -> Result<(), Reason> {
        self.still.each_key(take)
    }

    fn each_event(&self, take: &mut dyn FnMut(&[Event]) -> Result<(), Reason>) -> Result<u64, Reason> {
        self.still.each_event(take)
    }

    fn put_events(&self, events: &[Event]) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.put_events(events))
    }

    fn put_last_event(&self, number: u64) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.put_last_event(number))
    }

    fn expect(&self, from: &str) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.expect(from))
    }

    fn put_key(&self, key: &KeptKey) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.put_key(key))
    }

    fn put(&self, tokens: Option<&Tokens>, notes: &Notes) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.put(tokens, notes))
    }

    fn arrived(&self) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.arrived())
    }

    fn moved(&self, to: &str) -> Result<(), Reason> {
        self.step().and_then(|()| self.still.moved(to))
    }
}

/// How often a move could be broken off before it was done.
fn broken_off_at_each_step(from: &dyn Store, to: &dyn Store, names: (&str, &str)) -> u32 {
    for at in 0.. {
        let left = Cell::new(at);
        let broken = {
            let (source, target) = (still(from), still(to));
            let (source, target) = (Breaking { still: source, left: &left }, Breaking { still: target, left: &left });
            carry(&source, &target, names.0, names.1).is_err()
        };
        let is_used = |store: &dyn Store| matches!(store.read(&portal()), Ok(Installation::Installed(_)));
        assert!(!(is_used(from) && is_used(to)), "in use in both after {at} steps");
        // The same command again.
        let next = step(&from.state(&portal()).unwrap(), &to.state(&portal()).unwrap(), names.0, names.1).unwrap();
        match next {
            Step::Carry => assert_whole(from),
            Step::Finish => still(to).arrived().unwrap(),
            Step::Nothing => {}
        }
        if next != Step::Carry {
            assert_whole(to);
            assert_elsewhere(from, names.1);
            // Back for the next step.
            carry(&*still(to), &*still(from), names.1, names.0).unwrap();
        }
        if !broken {
            return at;
        }
    }
    unreachable!("a move has an end")
}

pub fn a_move_that_was_broken_off_at_any_step_is_ended_by_the_next_one(store: &dyn Store) {
    let place = Temporary::new();
    let files = Folder::new(&place.path().join("tokens"));
    fill(store);
    assert_eq!(broken_off_at_each_step(store, &files, ("/a", "/b")), 8);
    carry(&*still(store), &*still(&files), "/a", "/b").unwrap();
    assert_eq!(broken_off_at_each_step(&files, store, ("/b", "/a")), 8);
}
