//! A portal's events: lines of JSON, appended to the newest of several files.
//!
//! ```text
//! tokens/events/acme.bitrix24.ru/state             flock by whoever appends; how far all is on disk, which is what readers read
//! tokens/events/acme.bitrix24.ru/00…01.events      events from number 1 on, a line each
//! tokens/events/acme.bitrix24.ru/00…0913.events    from 913 on
//! ```
//!
//! A line is on disk before the state says so, and answered behind that. What stands behind it was not: whoever appends next
//! keeps what is whole (a power cut may have taken the state back) and cuts off the rest. A new file is told on disk when it is
//! begun, so that none is behind the one that the state names; the newest always stays, and with it the last number.

mod appending;
mod place;

use crate::store::{waited_for, Events, Wish, MOST_AT_ONCE, POLL};
use crate::system::clock::Deadline;
use crate::system::disk::{explain, open_to_read, Reason};
use crate::values::event::Bounds;
pub use appending::Appending;
pub use place::Mailbox;
use place::{parsed, State};
use std::io::ErrorKind;
use std::time::Duration;

/// How long a reader waits for a state that it can read.
const FOR_A_STATE: Duration = Duration::from_secs(5);
/// How often a reader begins again, because what it was about to read has been dropped meanwhile.
const TRIES: u32 = 5;

impl Mailbox {
    /// What readers may read; `None`: nothing was ever kept.
    fn published(&self) -> Result<Option<State>, Reason> {
        let found = waited_for(Deadline::after(FOR_A_STATE), POLL, || self.glance())?;
        found.ok_or_else(|| format!("{} cannot be read, and somebody holds it", self.state().display()))
    }

    /// The same; where more stands on disk than the state says, and nobody is at it, whoever was has been killed. `None`: what
    /// is there cannot be told while somebody else is at it.
    fn glance(&self) -> Result<Option<Option<State>>, Reason> {
        let file = match open_to_read(&self.state()) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) => return Err(explain(&error, "read", &self.state())),
        };
        let state = State::read(&file);
        let length = |state: State| self.segment(state.first).metadata().map_or(0, |metadata| metadata.len());
        match state {
            Some(state) if length(state) == state.end => Ok(Some(Some(state))),
            None if self.segments()?.is_empty() => Ok(Some(None)),
            _ => match Appending::try_lock(self)? {
                Some(appending) => {
                    let (state, _) = appending.settle()?;
                    Ok(Some(Some(state).filter(|state| state.first > 0)))
                }
                None => Ok(state.map(Some)),
            },
        }
    }

    pub fn last(&self) -> Result<u64, Reason> {
        Ok(self.published()?.map_or(0, |state| state.last))
    }

    pub fn read(&self, wish: &Wish, bounds: &Bounds) -> Result<Events, Reason> {
        let mut tries = TRIES;
        loop {
            let Some(state) = self.published()? else { return Ok(Events::default()) };
            if let Some(found) = self.read_to(state, wish, bounds)? {
                return Ok(found);
            }
            tries -= 1;
            if tries == 0 {
                return Err(format!("the events in {} are dropped faster than they are read", self.folder.display()));
            }
        }
    }

    /// `None`: a file is not there any more.
    fn read_to(&self, state: State, wish: &Wish, bounds: &Bounds) -> Result<Option<Events>, Reason> {
        let mut segments = self.segments()?;
        segments.retain(|first| *first <= state.first);
        if segments.last() != Some(&state.first) {
            return Ok(None);
        }
        let Some(shown) = self.first_shown(&segments, state, bounds)? else { return Ok(None) };
        let (begin, lost) = wish.begin(shown, state.last);
        let mut found = Events { events: Vec::new(), last: begin - 1, lost };
        let mut room = MOST_AT_ONCE;
        let at = segments.partition_point(|first| *first <= begin).saturating_sub(1);
        for first in &segments[at..] {
            let Some(mut lines) = self.lines(*first, state)? else { return Ok(None) };
            while let Some(line) = lines.next()? {
                if line.number < begin {
                    continue;
                }
                let event = parsed(line.bytes, line.number).ok_or_else(|| self.damaged(*first))?;
                if !found.take(event, wish, &mut room) {
                    return Ok(Some(found));
                }
            }
        }
        // A damaged file may hold less than its successor's name says.
        found.last = found.last.max(state.last);
        Ok(Some(found))
    }
}
