//! What a kind of database is asked: each of these is done in one step, by the database's own clock, and may be asked again
//! where the connection was lost before the answer came.

use super::lease::LEASE_MS;
use crate::store::records::Event;
use crate::store::{Examined, Quota, KEY_LIFETIME};
use crate::system::disk::Reason;

/// Of the tables.
pub const VERSION: i32 = 1;

/// Statements of a kind; `words`: what stands for the words in them.
#[cfg(any(feature = "postgres", feature = "mysql"))]
macro_rules! statements {
    (words: $words:expr; $($name:ident = $statement:literal;)*) => {
        $(static $name: LazyLock<String> = LazyLock::new(|| {
            $crate::store::database::statements::filled($statement, $words)
        });)*
    };
}
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(super) use statements;

/// A statement with its words filled in, in their order, for one may stand in another; `{lease}` and `{lifetime}` are how long a
/// lease lasts and a key lives, in milliseconds.
pub fn filled(statement: &str, words: &[(&str, &str)]) -> String {
    let statement = words.iter().fold(statement.to_owned(), |text, (word, meaning)| text.replace(word, meaning));
    statement.replace("{lease}", &LEASE_MS.to_string()).replace("{lifetime}", &(KEY_LIFETIME * 1000).to_string())
}

pub type Answer<T> = Result<T, Failed>;

/// Why there is no answer; no password is in it. The connection is not used again.
#[derive(Debug)]
pub struct Failed {
    pub why: Reason,
    /// A new connection may do better: this one was lost, or the server that it leads to has been replaced.
    pub again: bool,
}

/// A connection that was just made.
pub struct Opened {
    pub statements: Box<dyn Statements>,
    /// What the database's clock says, in milliseconds since 1970.
    pub now_ms: i64,
}

/// A portal's row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Of the stored pair; `None`: none is stored.
    pub fingerprint: Option<String>,
    /// JSON.
    pub pair: Option<String>,
    /// JSON.
    pub notes: Option<String>,
    /// Where the portal is instead; JSON.
    pub moved: Option<String>,
}

/// A key as it moves.
pub struct KeptRow {
    pub id: String,
    /// Empty: it is not known.
    pub portal: String,
    pub request: String,
    pub begun_at: i64,
}

/// What is known of a portal's bucket.
#[derive(Clone)]
pub struct KnownRow {
    /// JSON; empty: nothing yet.
    pub known: String,
    pub version: i64,
    /// When it was read.
    pub now_ms: i64,
}

/// A key that was opened.
pub struct KeyRow {
    /// Of what its entries are.
    pub request: String,
    pub entries: i32,
    /// It was begun longer ago than a key lives.
    pub has_expired: bool,
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    Yes {
        with_body: bool,
        /// When the client's keys were last swept; known at the first entry.
        swept_ms_ago: i64,
    },
    /// The client has as many keys as it may have.
    Full,
    /// Somebody else has opened the key since.
    Lost,
}

/// Leases last [`LEASE_MS`] from the moment of the statement; 0 is nobody's.
pub trait Statements: Send {
    fn portal(&mut self, portal: &str) -> Answer<Option<Row>>;

    /// The same, and what is known: all that a call reads, in one exchange.
    fn portal_and_known(&mut self, portal: &str) -> Answer<(Row, KnownRow)>;

    /// Takes the lease of a portal, where nobody's lasts but perhaps this one, or `left`, whose holder is known to be gone.
    /// `None`: somebody else's lasts.
    fn take_lease(&mut self, portal: &str, lease: i64, left: i64) -> Answer<Option<Row>>;

    /// Whether it is still this one, and has not been left.
    fn renew_lease(&mut self, portal: &str, lease: i64) -> Answer<bool>;

    fn leave_lease(&mut self, portal: &str, lease: i64) -> Answer<()>;

    /// Durable, and the lease is renewed; `false`: it is another's.
    fn write_notes(&mut self, portal: &str, lease: i64, notes: &str) -> Answer<bool>;

    /// Durable; `false`: the stored pair is not the expected one.
    fn replace_pair(&mut self, portal: &str, expected: Option<&str>, fingerprint: &str, pair: &str) -> Answer<bool>;

    /// Durable; `false`: the stored pair is not the expected one.
    fn set_aside(&mut self, portal: &str, expected: &str) -> Answer<bool>;

    /// `false`: somebody else was faster than this version. It may be lost with the server.
    fn remember(&mut self, portal: &str, version: i64, known: &str) -> Answer<bool>;

    /// Opens a key; `None`: somebody else has it open, or the portal's keys are closed, or it is not here.
    fn open_key(&mut self, key: &NewKey, request: &str) -> Answer<Option<KeyRow>>;

    /// The same of a key's.
    fn renew_key(&mut self, key: &str, lease: i64) -> Answer<bool>;

    /// An entry and, beside it, its body.
    fn entries(&mut self, key: &str) -> Answer<Vec<(String, Option<Vec<u8>>)>>;

    /// The first entry of a key, which takes one of the client's places. Durable.
    fn begin(&mut self, key: &OpenKey, request: &str, entry: &str, quota: Quota) -> Answer<Kept>;

    /// The entry behind so many others. Durable.
    fn append(&mut self, key: &OpenKey, after: i32, entry: &str, body: Option<&[u8]>, quota: Quota) -> Answer<Kept>;

    /// The key is free for the next one, as it stands; without an entry it is forgotten.
    fn leave_key(&mut self, key: &OpenKey) -> Answer<()>;

    /// The key and its place are free.
    fn forget_key(&mut self, key: &OpenKey) -> Answer<()>;

    /// Forgets what has expired of a client's keys and counts the rest; in how many milliseconds the oldest expires.
    fn sweep(&mut self, client: &str) -> Answer<i64>;

    /// Of which something is kept.
    fn portals(&mut self) -> Answer<Vec<String>>;

    /// Durable; `false`: the lease is another's, or somebody has opened a key of the portal since they were fenced, as the lease
    /// had ended for a while.
    fn set_portal(&mut self, portal: &str, lease: i64, row: &Row) -> Answer<bool>;

    /// When it returns no key of the portal is being opened any more, and none is while this lease lasts.
    fn close_keys(&mut self, portal: &str, lease: i64) -> Answer<()>;

    /// How many of them are open.
    fn open_keys(&mut self, portal: &str) -> Answer<i64>;

    /// Whoever had one open comes too late from now on.
    fn fence_keys(&mut self, portal: &str) -> Answer<()>;

    /// Those that have entries and have not expired, and those of no known portal.
    fn kept_keys(&mut self, portal: &str) -> Answer<Vec<KeptRow>>;

    /// A key that was kept elsewhere; not counted yet. One of no known portal leaves one that is there.
    fn put_key(&mut self, key: &KeptRow, client: &str, entries: &[(String, Option<&[u8]>)], bytes: i64) -> Answer<()>;

    /// What the clients keep, after keys of this portal were put.
    fn count_keys(&mut self, portal: &str) -> Answer<()>;

    fn forget_keys(&mut self, portal: &str) -> Answer<()>;

    /// Keeps an event under the portal's next number, which it answers; durable. `None`: the portal has moved, or a move has
    /// closed it.
    fn take_event(&mut self, new: &NewEvent) -> Answer<Option<i64>>;

    /// The number of the event that was kept by this attempt.
    fn taken_event(&mut self, attempt: i64) -> Answer<Option<i64>>;

    fn event_state(&mut self, portal: &str) -> Answer<EventState>;

    /// The first number from `lowest` on of an event that begins at `surplus` or behind it and is not older.
    fn first_event(&mut self, portal: &str, lowest: i64, surplus: i64, oldest_ms: i64) -> Answer<Option<i64>>;

    /// Some of those from one number to another, in order.
    fn some_events(&mut self, portal: &str, from: i64, to: i64) -> Answer<Vec<Event>>;

    fn drop_events(&mut self, portal: &str, below: i64) -> Answer<()>;

    /// When it returns no event of the portal is being taken, and none is for as long as a lease lasts.
    fn close_events(&mut self, portal: &str) -> Answer<()>;

    fn open_events(&mut self, portal: &str) -> Answer<()>;

    /// Events that were kept elsewhere, with where they begin and end among all; durable.
    fn put_events(&mut self, portal: &str, events: &[(&Event, i64, i64)]) -> Answer<()>;

    /// The last number, and where all events end.
    fn put_last_event(&mut self, portal: &str, last: i64, ends: i64) -> Answer<()>;

    fn forget_events(&mut self, portal: &str) -> Answer<()>;

    /// What the server says of itself; nothing is changed.
    fn examine(&mut self) -> Answer<Examined>;
}

/// A key that is to be opened.
pub struct NewKey<'k> {
    pub key: &'k OpenKey,
    pub client: &'k str,
    pub portal: &'k str,
}

/// A key and the lease by which it is open.
#[derive(Clone)]
pub struct OpenKey {
    pub key: String,
    pub lease: i64,
}

/// An event that is to be kept.
pub struct NewEvent<'e> {
    pub portal: &'e str,
    /// Tells it from others, where it is asked again.
    pub attempt: i64,
    pub name: &'e str,
    /// JSON.
    pub data: &'e str,
    /// How much it counts.
    pub size: i64,
}

/// Of a portal's events.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventState {
    /// The newest number, 0: there was none.
    pub last: i64,
    /// The sizes of all that there were.
    pub ends: i64,
    pub now_ms: i64,
    /// The portal is not here.
    pub is_moved: bool,
}
