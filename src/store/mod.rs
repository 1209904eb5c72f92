//! Storage: what is kept of a portal and of idempotency keys, and the obligations that every kind of it takes on. Uses
//! config, values and system; a kind of storage is named by `app` alone (and by the command line's checks of files).
//!
//! The words are those that an open file under `flock` and a row in a database can both honour.

#[cfg_attr(not(any(feature = "postgres", feature = "mysql")), allow(dead_code))]
pub mod database;
pub mod file;
pub mod moving;
pub mod records;
#[cfg(test)]
mod test_moving;
#[cfg(test)]
mod test_suite;

use crate::system::clock::Deadline;
use crate::system::disk::Reason;
use crate::system::wait::pause;
use crate::values::bucket::{Bucket, Known, Step, Told};
use crate::values::event::{Bounds, EventName};
use crate::values::portal::PortalName;
use crate::values::secret::{hex, sha256};
use moving::{State, Still};
use records::{Entry, Event, Installation, Notes, Tokens};
use std::fs::File;
use std::time::Duration;

/// How often a waiter looks again.
pub const POLL: Duration = Duration::from_millis(10);

/// What an attempt gives, made again after each `poll` until the deadline; `None`: that passes first.
fn waited_for<T>(
    until: Deadline,
    poll: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>, Reason>,
) -> Result<Option<T>, Reason> {
    loop {
        match attempt()? {
            Some(found) => return Ok(Some(found)),
            None if until.has_passed() => return Ok(None),
            None => pause(poll.min(until.remaining()))?,
        }
    }
}

/// A [`Reason`] is for the administrator's log: what failed, where, and what mends it; no secret is in it.
pub trait Store: Send + Sync {
    /// Whether nobody but this program's user, and root, can change what is kept, as far as that can be known without
    /// waiting; asked at every run before anything else.
    fn guarded(&self) -> Result<(), Reason>;

    /// Milliseconds since 1970, by the clock by which everything here is written and judged: those of several nodes need not
    /// agree.
    fn now_ms(&self) -> i64;

    /// The same in seconds.
    fn now(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }

    /// What is stored, without a lock: always a whole pair, of one moment.
    fn read(&self, portal: &PortalName) -> Result<Installation, Reason>;

    /// The notes, without the lock: for showing, not for deciding.
    fn notes(&self, portal: &PortalName) -> Notes;

    /// The portal's lock if nobody holds it, on this node or another. It lives until it is dropped or its process ends.
    /// Whoever gets it finds what an interrupted writer left behind put in place, if it replaces exactly what is stored, or
    /// taken away.
    fn try_lock(&self, portal: &PortalName) -> Result<Option<Box<dyn Lock>>, Reason>;

    /// Waits for the lock; `None` when the deadline passes first.
    fn lock(&self, portal: &PortalName, until: Deadline) -> Result<Option<Box<dyn Lock>>, Reason> {
        waited_for(until, self.poll(), || self.try_lock(portal))
    }

    /// How often whoever waits for another looks again.
    fn poll(&self) -> Duration;

    /// The lock that another process took and [passed on](Lock::pass_on).
    fn adopt_lock(&self, portal: &PortalName, passed_on: File) -> Result<Box<dyn Lock>, Reason>;

    /// How old a note of a begun refresh must be before its writer counts as dead: who finds a younger one waits. Zero where
    /// a lock that is free says it.
    fn grace(&self) -> Duration;

    /// Changes what is known of a portal's bucket, read and written in one step, by the storage's own clock. `None`: it cannot
    /// be used now, which stops nobody.
    fn bucket(&self, portal: &PortalName, bucket: Bucket, step: Step) -> Option<Told>;

    /// What is known of it, for showing, not for deciding; nothing where it cannot be read.
    fn known(&self, portal: &PortalName) -> Known;

    /// Opens a client's idempotency key for this portal and reads what is there, waiting until the deadline while somebody
    /// else has it open. `request`: what the key's request is, by which another one is told.
    fn claim(
        &self,
        client: &str,
        portal: &PortalName,
        key: &str,
        request: &str,
        until: Deadline,
    ) -> Result<Claim, Reason>;

    /// Keeps an event; its number: the next one of the portal, from 1, without a gap and never used again, though many are
    /// taken at once. Durable when it returns. What is outside of the bounds then need not stay.
    fn take_event(&self, portal: &PortalName, name: &EventName, data: &str, bounds: &Bounds) -> Result<u64, Reason>;

    /// Those of a portal's events that are wanted, in order; nothing is consumed. What is outside of the bounds is not there
    /// any more, whether or not it still lies somewhere.
    fn events(&self, portal: &PortalName, wish: &Wish, bounds: &Bounds) -> Result<Events, Reason>;

    /// The number of the newest event, 0 where there was none: what tells cheaply whether there may be more.
    fn last_event(&self, portal: &PortalName) -> Result<u64, Reason>;

    /// How often whoever waits for an event looks.
    fn event_poll(&self) -> Duration;

    /// What follows takes long and needs nothing of what is kept.
    fn rest(&self) {}

    /// Whether a pair could be stored now, and [`guarded`](Store::guarded).
    fn check(&self) -> Result<(), Reason>;

    /// Where a portal's pair is kept.
    fn place(&self, portal: &PortalName) -> Whereabouts;

    /// What this storage is called, without user and password.
    fn name(&self) -> String;

    /// The portals of which something is kept.
    fn portals(&self) -> Result<Vec<PortalName>, Reason>;

    fn state(&self, portal: &PortalName) -> Result<State, Reason>;

    /// Waits until a portal keeps still; `None`: the deadline passes first.
    fn still(&self, portal: &PortalName, until: Deadline) -> Result<Option<Box<dyn Still + '_>>, Reason>;

    /// What the server of a database says of itself; `None`: there is none.
    fn examine(&self) -> Option<Result<Examined, Reason>> {
        None
    }
}

/// What the server of a database says of itself and of this program's user.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// `PostgreSQL 15.8`
    pub version: String,
    /// Whether it is one that the statements are made for.
    pub is_known: bool,
    /// Of the connection that the server sees.
    pub is_encrypted: bool,
    pub is_read_only: bool,
    /// Rights that are missing, such as `DELETE on b24proxy_keys`.
    pub missing: Vec<String>,
    /// `None`: transactions are done; else why not.
    pub no_transactions: Option<Reason>,
    /// The server's end of the connection is older than this process's: a pooler stands between.
    pub is_pooled: bool,
    /// A setting by which it forgets what it has said is stored, when it is killed or its machine fails.
    pub forgets: Option<String>,
    /// How many connections it allows, and how many there are.
    pub most_connections: i64,
    pub connections: i64,
}

/// Where something is kept, for a person who moves it away.
pub struct Whereabouts {
    /// `acme.bitrix24.ru.json`, for a page.
    pub name: String,
    /// With its folder, for the administrator.
    pub full: String,
    /// The statement that takes it out of use in a database, without losing it; `None`: it is a file, which can be moved.
    pub set_aside: Option<String>,
}

/// A portal's exclusive lock.
pub trait Lock: Send {
    /// What is stored now. Whoever writes decides by this, not by what was read before the lock.
    fn read(&self) -> Result<Installation, Reason>;

    fn notes(&self) -> Notes;

    /// Durable when it returns.
    fn write_notes(&self, notes: &Notes) -> Result<(), Reason>;

    /// Makes sure that the next pair can be stored, before the old one is spent.
    fn reserve(&self) -> Result<Box<dyn Room + '_>, Reason>;

    /// Takes the pair with this refresh token (its fingerprint) out of use, without losing it.
    fn set_aside(&self, expected: &str) -> Result<Replaced, Reason>;

    /// The lock as an open file that another process gets as its standard input, and that holds it until both have closed it.
    fn pass_on(self: Box<Self>) -> File;
}

/// Room for one pair. Dropped it leaves nothing behind.
pub trait Room {
    /// Puts the pair in the place of the one with this refresh token (its fingerprint), `None`: where none is stored. Durable
    /// when it returns. Once it has begun, the new pair is not lost, whatever happens: where it cannot take its place it stays
    /// for whoever locks next, with what it replaces.
    fn replace(self: Box<Self>, expected: Option<&str>, tokens: &Tokens) -> Result<Replaced, Reason>;
}

/// Whether the pair that was to be replaced was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Replaced {
    Yes,
    /// Another pair is stored, or none: nothing was changed.
    OtherIsStored,
}

/// What became of the wish to open a key.
pub enum Claim {
    /// It is open, with what is there; nobody else opens it meanwhile.
    Opened(Box<dyn Journal>, Vec<Entry<'static>>),
    /// It belongs to another request.
    OtherRequest,
    /// Somebody else had it open until the deadline.
    Busy,
}

/// An open key: entries, which are only appended. Dropped, it is left as it stands: once something was appended, that is what
/// the next one finds.
pub trait Journal {
    /// Durable when it returns; all of it, or nothing. The first entry takes one of the client's places, a body as much of its
    /// room as it has bytes, in one step with the writing of the quota.
    fn append(&mut self, entry: &Entry) -> Result<Appended, Reason>;

    /// The key is free again.
    fn forget(self: Box<Self>);

    /// Frees the key without the journal, for a process that ends at once: the client's place is given back when it is next
    /// counted.
    fn last_will(&self) -> Box<dyn FnOnce()>;

    /// Where it is kept.
    fn place(&self) -> String;
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    Kept,
    /// There is no room for its body: it is kept that there was one.
    WithoutBody,
    /// The client has as many keys as it may have; nothing was written. A place is free in so many seconds.
    Full {
        retry_after: u64,
    },
}

/// What is asked of a portal's events.
pub struct Wish<'w> {
    /// Those behind this number; above the last one it counts as 0.
    pub after: u64,
    /// At most so many, and no more than [`MOST_AT_ONCE`] bytes but for the first.
    pub most: usize,
    /// By name.
    pub is_wanted: &'w dyn Fn(&str) -> bool,
}

impl Wish<'_> {
    /// `shown`: the first number that is not dropped. Where to begin, and how many are lost.
    fn begin(&self, shown: u64, last: u64) -> (u64, u64) {
        let after = if self.after > last { 0 } else { self.after };
        (shown.max(after + 1), (shown - 1).saturating_sub(after))
    }
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub events: Vec<Event>,
    /// Whoever asks for those behind this number misses none that is wanted.
    pub last: u64,
    /// How many behind the number that was asked for have been dropped.
    pub lost: u64,
}

impl Events {
    /// Takes what is found next, where it is wanted; whether there is room for more.
    fn take(&mut self, event: Event, wish: &Wish, room: &mut usize) -> bool {
        if (wish.is_wanted)(&event.name) {
            let size = event.size();
            if self.events.len() >= wish.most || !self.events.is_empty() && size > *room {
                return false;
            }
            *room = room.saturating_sub(size);
            self.last = event.number;
            self.events.push(event);
        } else {
            self.last = event.number;
        }
        true
    }
}

/// Bytes of events that are given at once.
pub const MOST_AT_ONCE: usize = 4 << 20;

/// What a client's keys are kept under, and a key among them: the same in every kind of storage, so that they can move.
fn client_name(client: &str) -> String {
    hex(&sha256(client.as_bytes()))[..16].to_owned()
}

fn key_name(portal: &PortalName, key: &str) -> String {
    hex(&sha256(format!("{portal}\n{key}").as_bytes()))[..40].to_owned()
}

/// How much a client may keep.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub keys: u64,
    /// Of answers and records together.
    pub bytes: u64,
}

pub const QUOTA: Quota = Quota { keys: 1000, bytes: 64 << 20 };
/// Seconds that a key lives, as Bitrix24's own do. After that it counts as never used.
pub const KEY_LIFETIME: i64 = 24 * 3600;
