//! A portal of a database that moves. A mark in its row says where it is; a key is opened only where none stands there, and
//! not while a move, which has the portal's lease, has closed them.

use super::events::{self, count, natural};
use super::lease::{new_lease, POLL};
use super::link::{Renewal, Use};
use super::node::{mark_of, notes_of, Node};
use super::private::Private;
use super::statements::{KeptRow, Row, Statements};

use crate::store::moving::{KeptKey, State, Still};
use crate::store::records::{Entry, Event, Notes, Tokens};
use crate::store::waited_for;
use crate::system::clock::Deadline;
use crate::system::disk::Reason;
use crate::values::moved::Mark;
use crate::values::portal::PortalName;
use std::cell::{Cell, RefCell};

/// Of a client's name in a key's id.
const CLIENT: usize = 16;

pub fn state(node: &Node, portal: &PortalName) -> Result<State, Reason> {
    let (row, has_more) = node.link.ask(|statements| {
        let row = statements.portal(portal.as_str())?.unwrap_or_default();
        let has_key = statements.kept_keys(portal.as_str())?.iter().any(|key| !key.portal.is_empty());
        Ok((row, has_key || statements.event_state(portal.as_str())?.last > 0))
    })?;
    Ok(match mark_of(&row)? {
        Some(mark) => State::Marked(mark),
        None if row.pair.is_some() || has_more => State::Here,
        None => State::Nothing,
    })
}

/// The lease without the lock of this node, whose file may be the other storage's.
pub fn still<'n>(node: &'n Node, portal: &PortalName, until: Deadline) -> Result<Option<Box<dyn Still + 'n>>, Reason> {
    let private = Private::new(&node.folder, portal);
    if private.waits() && !matches!(state(node, portal)?, State::Marked(_)) {
        if let Some(_lock) = private.try_lock()? {
            node.settle(portal)?;
        }
    }
    let lease = new_lease();
    let take = || node.link.ask(|statements| statements.take_lease(portal.as_str(), lease, lease));
    let Some(row) = waited_for(until, POLL, take)? else { return Ok(None) };
    let (name, link) = (portal.clone(), &node.link);
    let renew = move |statements: &mut dyn Statements| {
        let is_ours = statements.renew_lease(name.as_str(), lease)?;
        if is_ours {
            statements.close_events(name.as_str())?;
        }
        Ok(is_ours)
    };
    let still = StillRow {
        node,
        portal: portal.clone(),
        lease,
        row: RefCell::new(row),
        carried: Cell::new(None),
        ends: Cell::new(0),
        renewal: Some(Renewal::start(link, renew)?),
        _use: link.used(),
    };
    link.ask(|statements| statements.close_keys(portal.as_str(), lease))?;
    link.ask(|statements| statements.close_events(portal.as_str()))?;
    let all_left = || Ok((link.ask(|statements| statements.open_keys(portal.as_str()))? == 0).then_some(()));
    if waited_for(until, POLL, all_left)?.is_none() {
        return Ok(None);
    }
    link.ask(|statements| statements.fence_keys(portal.as_str()))?;
    Ok(Some(Box::new(still)))
}

struct StillRow<'n> {
    node: &'n Node,
    portal: PortalName,
    lease: i64,
    /// As it is stored: nobody else changes it.
    row: RefCell<Row>,
    /// The last event that was read.
    carried: Cell<Option<u64>>,
    /// Where those that were put end.
    ends: Cell<i64>,
    renewal: Option<Renewal>,
    _use: Use,
}

impl Drop for StillRow<'_> {
    fn drop(&mut self) {
        self.renewal = None;
        // Where they cannot be given back they end by themselves; of a portal that has moved the second one should.
        let _ = self.node.link.ask(|statements| statements.leave_lease(self.portal.as_str(), self.lease));
        if self.row.borrow().moved.is_none() {
            let _ = self.node.link.ask(|statements| statements.open_events(self.portal.as_str()));
        }
    }
}

impl StillRow<'_> {
    fn set(&self, row: Row) -> Result<(), Reason> {
        match self.node.link.ask(|statements| statements.set_portal(self.portal.as_str(), self.lease, &row))? {
            true => self.row.replace(row),
            false => {
                return Err(format!("the lock of {} was lost in between: run the same command again", self.portal))
            }
        };
        Ok(())
    }

    fn marked(&self, mark: &Mark) -> Result<(), Reason> {
        let moved = Some(serde_json::to_string(mark).expect("plain data serializes"));
        self.set(Row { moved, ..Row::default() })
    }
}

impl Still for StillRow<'_> {
    fn belongings(&self) -> Result<(Option<Tokens>, Notes), Reason> {
        let row = self.row.borrow();
        let parse = |pair: &String| Tokens::parse(pair.as_bytes());
        let tokens = row.pair.as_ref().map(parse).transpose();
        let tokens = tokens
            .map_err(|why| format!("the tokens in {} are damaged ({why})", self.node.place(&self.portal).full))?;
        Ok((tokens, notes_of(&row)))
    }

    fn each_key(&self, take: &mut dyn FnMut(KeptKey) -> Result<(), Reason>) -> Result<(), Reason> {
        let link = &self.node.link;
        for row in link.ask(|statements| statements.kept_keys(self.portal.as_str()))? {
            let damaged = || format!("the idempotency key {} in b24proxy_keys is damaged", row.id);
            let entries = link.ask(|statements| statements.entries(&row.id))?;
            let entries = entries.into_iter().map(|(text, body)| {
                let entry: Entry<'static> = serde_json::from_str(&text).map_err(|_| damaged())?;
                Ok(entry.with_body(body))
            });
            let (client, key) = row.id.split_at_checked(CLIENT).ok_or_else(damaged)?;
            take(KeptKey {
                client: client.to_owned(),
                key: key.to_owned(),
                entries: entries.collect::<Result<_, Reason>>()?,
                portal: row.portal,
                request: row.request,
                begun_at: row.begun_at,
            })?;
        }
        Ok(())
    }

    fn each_event(&self, take: &mut dyn FnMut(&[Event]) -> Result<(), Reason>) -> Result<u64, Reason> {
        let last = events::last(self.node, &self.portal)?;
        let mut next = 0;
        while next <= last {
            let part = events::part(self.node, &self.portal, next, last)?;
            let Some(end) = part.last().map(|event| event.number) else { break };
            take(&part)?;
            next = end + 1;
        }
        self.carried.set(Some(last));
        Ok(last)
    }

    fn expect(&self, from: &str) -> Result<(), Reason> {
        self.marked(&Mark::Arriving { from: from.to_owned() })?;
        self.node.link.ask(|statements| statements.forget_keys(self.portal.as_str()))?;
        self.ends.set(0);
        self.node.link.ask(|statements| statements.forget_events(self.portal.as_str()))
    }

    fn put_key(&self, key: &KeptKey) -> Result<(), Reason> {
        let row = KeptRow {
            id: format!("{}{}", key.client, key.key),
            portal: key.portal.clone(),
            request: key.request.clone(),
            begun_at: key.begun_at,
        };
        let entries: Vec<(String, Option<&[u8]>)> = key
            .entries
            .iter()
            .map(|entry| (serde_json::to_string(entry).expect("plain data serializes"), entry.body()))
            .collect();
        let bytes = i64::try_from(key.bytes()).unwrap_or(i64::MAX);
        self.node.link.ask(|statements| statements.put_key(&row, &key.client, &entries, bytes))
    }

    fn put_events(&self, events: &[Event]) -> Result<(), Reason> {
        let mut ends = self.ends.get();
        let placed = |event| {
            let starts = ends;
            ends = starts.saturating_add(count(Event::size(event) as u64));
            (event, starts, ends)
        };
        let placed: Vec<_> = events.iter().map(placed).collect();
        self.node.link.ask(|statements| statements.put_events(self.portal.as_str(), &placed))?;
        self.ends.set(ends);
        Ok(())
    }

    fn put_last_event(&self, number: u64) -> Result<(), Reason> {
        let ends = self.ends.get();
        self.node.link.ask(|statements| statements.put_last_event(self.portal.as_str(), count(number), ends))
    }

    fn put(&self, tokens: Option<&Tokens>, notes: &Notes) -> Result<(), Reason> {
        self.node.link.ask(|statements| statements.count_keys(self.portal.as_str()))?;
        let moved = self.row.borrow().moved.clone();
        self.set(Row {
            fingerprint: tokens.map(Tokens::fingerprint),
            pair: tokens.map(|tokens| serde_json::to_string(tokens).expect("plain data serializes")),
            notes: Some(serde_json::to_string(notes).expect("plain data serializes")),
            moved,
        })
    }

    fn arrived(&self) -> Result<(), Reason> {
        let row = self.row.borrow().clone();
        self.set(Row { moved: None, ..row })
    }

    fn moved(&self, to: &str) -> Result<(), Reason> {
        let last = natural(events::state(self.node, &self.portal)?.last);
        if self.carried.get().is_some_and(|carried| carried != last) {
            return Err(format!("events of {} were taken in between: run the same command again", self.portal));
        }
        self.marked(&Mark::Moved { to: to.to_owned() })
    }
}
