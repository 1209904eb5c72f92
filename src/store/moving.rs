//! How what is kept of a portal moves from one storage to another: what each kind takes on for it, and the order in which it is
//! done. At each moment one of the two places may be used, or none; whoever repeats a move that was broken off ends it.
//!
//! | source | target | what a repeated move does |
//! |---|---|---|
//! | as ever | marked as arriving | all of it once more |
//! | marked as moved | marked as arriving | takes the mark from the target |
//! | marked as moved | as ever | nothing |

use super::records::{Entry, Event, Notes, Tokens};
use crate::system::disk::Reason;
use crate::values::moved::Mark;

/// What a storage says of a portal, without a lock.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    Nothing,
    /// Tokens, keys, or events.
    Here,
    Marked(Mark),
}

/// A client's idempotency key.
#[derive(Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// Hashes of the client's name, and of portal and key: the same in every kind of storage.
    pub client: String,
    pub key: String,
    /// Empty: begun by a version that did not write it down.
    pub portal: String,
    pub request: String,
    /// Milliseconds since 1970.
    pub begun_at: i64,
    pub entries: Vec<Entry<'static>>,
}

impl KeptKey {
    /// Of its answers, as they count for the client's quota.
    pub fn bytes(&self) -> usize {
        self.entries.iter().filter_map(|entry| entry.body()).map(<[u8]>::len).sum()
    }
}

/// A portal that keeps still: its lock is held, no key of it is open or is opened, and no event of it is taken, here or on another
/// node, until this is dropped or its process has ended. What is written is durable when it returns, keys with what is written
/// behind them.
pub trait Still {
    fn belongings(&self) -> Result<(Option<Tokens>, Notes), Reason>;

    /// One after the other: an answer may be large.
    fn each_key(&self, take: &mut dyn FnMut(KeptKey) -> Result<(), Reason>) -> Result<(), Reason>;

    /// In order, some at a time; the number of the last one, which may have been dropped.
    fn each_event(&self, take: &mut dyn FnMut(&[Event]) -> Result<(), Reason>) -> Result<u64, Reason>;

    /// From now on nobody uses the portal here; what was kept of it is forgotten.
    fn expect(&self, from: &str) -> Result<(), Reason>;

    /// Where the key is of no known portal, one that is there stays.
    fn put_key(&self, key: &KeptKey) -> Result<(), Reason>;

    /// Behind those that were put before.
    fn put_events(&self, events: &[Event]) -> Result<(), Reason>;

    /// Behind all events: the next one gets the number behind this one.
    fn put_last_event(&self, number: u64) -> Result<(), Reason>;

    /// Behind all keys and events; nobody uses it yet.
    fn put(&self, tokens: Option<&Tokens>, notes: &Notes) -> Result<(), Reason>;

    /// The portal is used here.
    fn arrived(&self) -> Result<(), Reason>;

    /// The portal is not used here any more, and its tokens are gone.
    fn moved(&self, to: &str) -> Result<(), Reason>;
}

/// What is to be done for a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is there already.
    Nothing,
    Carry,
    /// It has been carried; the target is still marked.
    Finish,
}

/// By what both say. `Err`: why it cannot be moved.
pub fn step(source: &State, target: &State, from: &str, to: &str) -> Result<Step, String> {
    match (source, target) {
        (State::Marked(Mark::Moved { to: place }), State::Marked(Mark::Arriving { from: origin })) if place == to => {
            match origin == from {
                true => Ok(Step::Finish),
                false => Err(format!("it is on its way there from {origin} too: end that move first")),
            }
        }
        (State::Marked(Mark::Moved { to: place }), _) if place == to => Ok(Step::Nothing),
        (State::Marked(Mark::Moved { to: place }), _) => {
            Err(format!("it has moved to {place} already: let [storage] in proxy.toml name that place"))
        }
        (State::Marked(Mark::Arriving { from }), _) => {
            Err(format!("it is on its way here from {from}: end that move first, by the same command"))
        }
        (_, State::Here) => {
            Err(format!("{to} holds tokens, keys or events of it that are in use: nothing is moved over them"))
        }
        // Perhaps the only copy.
        (_, State::Marked(Mark::Arriving { from: origin })) if origin != from => {
            Err(format!("it is on its way there from {origin}: end that move first"))
        }
        (State::Nothing | State::Here, State::Nothing | State::Marked(_)) => Ok(Step::Carry),
    }
}

/// How many keys went along.
pub fn carry(source: &dyn Still, target: &dyn Still, from: &str, to: &str) -> Result<usize, Reason> {
    let (tokens, notes) = source.belongings()?;
    target.expect(from)?;
    let mut keys = 0;
    source.each_key(&mut |key| {
        keys += 1;
        target.put_key(&key)
    })?;
    let last = source.each_event(&mut |events| target.put_events(events))?;
    target.put_last_event(last)?;
    target.put(tokens.as_ref(), &notes)?;
    source.moved(to)?;
    target.arrived()?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_follows_from_what_both_say() {
        use State::{Here, Nothing};
        let moved = |to: &str| State::Marked(Mark::Moved { to: to.into() });
        let arriving = |from: &str| State::Marked(Mark::Arriving { from: from.into() });
        for (source, target, expected) in [
            (Here, Nothing, Some(Step::Carry)),
            (Nothing, Nothing, Some(Step::Carry)),
            (Here, moved("a"), Some(Step::Carry)),
            (Here, arriving("a"), Some(Step::Carry)),
            (Here, arriving("elsewhere"), None),
            (Here, Here, None),
            (Nothing, Here, None),
            (moved("b"), arriving("a"), Some(Step::Finish)),
            (moved("b"), arriving("elsewhere"), None),
            (moved("b"), Here, Some(Step::Nothing)),
            (moved("elsewhere"), Nothing, None),
            (arriving("elsewhere"), Nothing, None),
        ] {
            let step = step(&source, &target, "a", "b");
            assert_eq!(step.as_ref().ok().copied(), expected, "{source:?} {target:?} {step:?}");
        }
    }
}
