//! Events: a row for each, and one of the portal, which gives the numbers; whoever takes an event has that row until it is kept.

use super::lease::{new_lease, POLL};
use super::node::Node;
use super::statements::{EventState, NewEvent};
use crate::store::records::Event;
use crate::store::{waited_for, Events, Wish, MOST_AT_ONCE};
use crate::system::clock::Deadline;
use crate::system::disk::Reason;
use crate::values::event::{line, Bounds, EventName};
use crate::values::portal::PortalName;
use std::time::Duration;

/// How long a move of the portal may keep an event waiting.
const PATIENCE: Duration = Duration::from_secs(20);
/// With each of so many events those that are outside of the bounds are deleted.
const TIDY_EVERY: u64 = 64;
/// A moment with as many digits as those of today.
const SOME_MOMENT: i64 = 1_000_000_000_000;
/// Bytes of events that are read in one exchange.
pub const PART: i64 = 512 << 10;

pub fn take(node: &Node, portal: &PortalName, name: &EventName, data: &str, bounds: &Bounds) -> Result<u64, Reason> {
    let size = count(line(SOME_MOMENT, name.as_str(), data).len() as u64);
    let new = NewEvent { portal: portal.as_str(), attempt: new_lease(), name: name.as_str(), data, size };
    let mut was_asked = false;
    let mut taken = || {
        node.link.ask(|statements| {
            // It may have been kept before the connection was lost.
            let known =
                if std::mem::replace(&mut was_asked, true) { statements.taken_event(new.attempt)? } else { None };
            known.map_or_else(|| statements.take_event(&new), |number| Ok(Some(number)))
        })
    };
    let number = waited_for(Deadline::after(PATIENCE), POLL, || match taken()? {
        Some(number) => Ok(Some(number)),
        None => node.refuse_moved(portal).map(|()| None),
    })?;
    let number = number.ok_or_else(|| format!("a move of {portal} has not ended"))?;
    let number = natural(number);
    if number.is_multiple_of(TIDY_EVERY) {
        // It is tidying.
        let _ = tidy(node, portal, bounds);
    }
    Ok(number)
}

fn tidy(node: &Node, portal: &PortalName, bounds: &Bounds) -> Result<(), Reason> {
    let state = state(node, portal)?;
    // The newest stays: numbers are made of it.
    let below = first_shown(node, portal, state, bounds)?.min(natural(state.last));
    node.link.ask(|statements| statements.drop_events(portal.as_str(), count(below)))
}

pub fn state(node: &Node, portal: &PortalName) -> Result<EventState, Reason> {
    node.link.ask(|statements| statements.event_state(portal.as_str()))
}

pub fn last(node: &Node, portal: &PortalName) -> Result<u64, Reason> {
    Ok(natural(state(node, portal)?.last))
}

fn first_shown(node: &Node, portal: &PortalName, state: EventState, bounds: &Bounds) -> Result<u64, Reason> {
    let lowest = count(bounds.lowest(natural(state.last)));
    let surplus = state.ends.saturating_sub(count(bounds.max_size));
    let oldest_ms = bounds.oldest_ms(state.now_ms);
    let first = node.link.ask(|statements| statements.first_event(portal.as_str(), lowest, surplus, oldest_ms))?;
    Ok(first.map_or_else(|| natural(state.last) + 1, natural))
}

pub fn read(node: &Node, portal: &PortalName, wish: &Wish, bounds: &Bounds) -> Result<Events, Reason> {
    let state = state(node, portal)?;
    let last = natural(state.last);
    if state.is_moved {
        node.refuse_moved(portal)?;
    }
    let shown = first_shown(node, portal, state, bounds)?;
    let (begin, lost) = wish.begin(shown, last);
    let mut found = Events { events: Vec::new(), last: begin - 1, lost };
    let (mut room, mut next) = (MOST_AT_ONCE, begin);
    while next <= last {
        let part = part(node, portal, next, last)?;
        let Some(end) = part.last().map(|event| event.number) else { break };
        for event in part {
            if !found.take(event, wish, &mut room) {
                return Ok(found);
            }
        }
        next = end + 1;
    }
    found.last = found.last.max(last);
    Ok(found)
}

/// Some of those from this number on.
pub fn part(node: &Node, portal: &PortalName, from: u64, to: u64) -> Result<Vec<Event>, Reason> {
    node.link.ask(|statements| statements.some_events(portal.as_str(), count(from), count(to)))
}

pub fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
