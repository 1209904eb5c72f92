//! A database in the place of the token folder, for any number of nodes. What is the same for every kind of database is here;
//! what each is asked, and in which words, is in [`statements`] and in the kind's own file.
//!
//! Nothing is held by an open transaction or a session: those outlive a node that has lost its network, and what stands between
//! (a pooler) does not have them. Whoever has a portal's lock, or a key, has a lease with a number in its row, which ends by
//! itself; what is written says under which number, or what it replaces, so that who comes too late writes nothing.

mod events;
mod keys;
mod lease;
mod link;
mod lock;
mod moving;
#[cfg(feature = "mysql")]
pub mod mysql;
mod node;
#[cfg(feature = "postgres")]
pub mod postgres;
mod private;
pub mod statements;
#[cfg(all(test, feature = "mysql"))]
mod test_mysql;
#[cfg(test)]
mod test_nodes;
mod way;

use super::moving::{State, Still};
use super::records::{Installation, Notes};
use super::{Claim, Events, Examined, Lock, Quota, Store, Whereabouts, Wish};
use crate::system::clock::Deadline;
use crate::system::disk::{create_private_folder, refuse_writable_by_others, writable, Reason};
use crate::values::bucket::{Bucket, Known, Step, Told};
use crate::values::event::{Bounds, EventName};
use crate::values::portal::PortalName;
use crate::values::secret::random_hex;
use lease::POLL;
pub use link::Connect;
use link::{locked, milliseconds};
use lock::RowLock;
use node::{notes_of, Node};
use private::Private;
use statements::KnownRow;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long others may be faster with a bucket, before a call goes without.
const BUCKET: Duration = Duration::from_secs(2);
/// For how long others have probably not written what was read.
const JUST_NOW: Duration = Duration::from_secs(1);

pub struct Database {
    node: Node,
    /// What the last reading brought along, of which portal and when.
    known: Mutex<Option<(PortalName, Instant, KnownRow)>>,
}

impl Database {
    /// `name`: its address as it is shown. `stays`: whether this process serves more than one request.
    pub fn new(connect: Connect, name: String, folder: &Path, quota: Quota, stays: bool) -> Database {
        Database { node: Node::new(connect, name, folder, quota, stays), known: Mutex::default() }
    }

    /// What a reading has just brought along; once, and whoever writes says what of it has been read.
    fn just_read(&self, portal: &PortalName) -> Option<KnownRow> {
        let (of, then, known) = locked(&self.known).take()?;
        let age = then.elapsed();
        let now_ms = known.now_ms.saturating_add_unsigned(milliseconds(age));
        (of == *portal && age < JUST_NOW).then_some(KnownRow { now_ms, ..known })
    }
}

impl Store for Database {
    fn guarded(&self) -> Result<(), Reason> {
        refuse_writable_by_others(&self.node.folder.path)
    }

    fn now_ms(&self) -> i64 {
        self.node.link.now_ms()
    }

    fn read(&self, portal: &PortalName) -> Result<Installation, Reason> {
        let private = Private::new(&self.node.folder, portal);
        private.remove_old();
        if private.waits() {
            // Nobody works at it where the lock is free.
            if let Some(_lock) = private.try_lock()? {
                self.node.settle(portal)?;
            }
        }
        let (row, known) = self.node.link.ask(|statements| statements.portal_and_known(portal.as_str()))?;
        *locked(&self.known) = Some((portal.clone(), Instant::now(), known));
        self.node.installation(portal, row)
    }

    fn notes(&self, portal: &PortalName) -> Notes {
        let row = self.node.link.ask(|statements| statements.portal(portal.as_str())).ok().flatten();
        row.as_ref().map(notes_of).unwrap_or_default()
    }

    fn try_lock(&self, portal: &PortalName) -> Result<Option<Box<dyn Lock>>, Reason> {
        let Some(file) = Private::new(&self.node.folder, portal).try_lock()? else { return Ok(None) };
        self.node.settle(portal)?;
        Ok(RowLock::take(&self.node, portal, file)?.map(|lock| Box::new(lock) as Box<dyn Lock>))
    }

    fn adopt_lock(&self, portal: &PortalName, passed_on: File) -> Result<Box<dyn Lock>, Reason> {
        Ok(Box::new(RowLock::adopt(&self.node, portal, passed_on)?))
    }

    fn poll(&self) -> Duration {
        POLL
    }

    /// Whoever has the lease knows: the one before has left it, has ended, or has not renewed it for so long.
    fn grace(&self) -> Duration {
        Duration::ZERO
    }

    /// What is known is too much for one expression, so it is read, and written where nobody was faster.
    fn bucket(&self, portal: &PortalName, bucket: Bucket, step: Step) -> Option<Told> {
        let until = Deadline::after(BUCKET);
        let mut just_read = self.just_read(portal);
        loop {
            let told = self.node.link.ask(|statements| {
                let row = match just_read.take() {
                    Some(row) => row,
                    None => statements.portal_and_known(portal.as_str())?.1,
                };
                let mut known = known_of(&row);
                let told = known.step(bucket, step, row.now_ms);
                let text = serde_json::to_string(&known).expect("plain data serializes");
                Ok(statements.remember(portal.as_str(), row.version, &text)?.then_some(told))
            });
            match told.ok()? {
                Some(told) => return Some(told),
                None if until.has_passed() => return None,
                None => std::thread::sleep(Duration::from_micros(500 + u64::from(random_byte()) * 40)),
            }
        }
    }

    fn known(&self, portal: &PortalName) -> Known {
        self.node
            .link
            .ask(|statements| Ok(known_of(&statements.portal_and_known(portal.as_str())?.1)))
            .unwrap_or_default()
    }

    fn claim(
        &self,
        client: &str,
        portal: &PortalName,
        key: &str,
        request: &str,
        until: Deadline,
    ) -> Result<Claim, Reason> {
        keys::claim(&self.node, client, portal, key, request, until)
    }

    fn take_event(&self, portal: &PortalName, name: &EventName, data: &str, bounds: &Bounds) -> Result<u64, Reason> {
        events::take(&self.node, portal, name, data, bounds)
    }

    fn events(&self, portal: &PortalName, wish: &Wish, bounds: &Bounds) -> Result<Events, Reason> {
        events::read(&self.node, portal, wish, bounds)
    }

    fn last_event(&self, portal: &PortalName) -> Result<u64, Reason> {
        events::last(&self.node, portal)
    }

    fn event_poll(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn rest(&self) {
        self.node.link.rest();
    }

    fn check(&self) -> Result<(), Reason> {
        self.guarded()?;
        create_private_folder(&self.node.folder.path)?;
        writable(&self.node.folder.path)?;
        // It changes nothing, and is refused where nothing can be changed.
        self.node.link.ask(|statements| statements.renew_lease("", 0)).map(drop)
    }

    fn place(&self, portal: &PortalName) -> Whereabouts {
        self.node.place(portal)
    }

    fn name(&self) -> String {
        self.node.name.clone()
    }

    fn portals(&self) -> Result<Vec<PortalName>, Reason> {
        let names = self.node.link.ask(|statements| statements.portals())?;
        Ok(names.iter().filter_map(|name| PortalName::parse(name)).collect())
    }

    fn state(&self, portal: &PortalName) -> Result<State, Reason> {
        moving::state(&self.node, portal)
    }

    fn still(&self, portal: &PortalName, until: Deadline) -> Result<Option<Box<dyn Still + '_>>, Reason> {
        moving::still(&self.node, portal, until)
    }

    fn examine(&self) -> Option<Result<Examined, Reason>> {
        Some(self.node.link.ask(|statements| statements.examine()))
    }
}

fn known_of(row: &KnownRow) -> Known {
    serde_json::from_str(&row.known).ok().filter(Known::is_sound).unwrap_or_default()
}

fn random_byte() -> u8 {
    u8::from_str_radix(&random_hex::<1>(), 16).unwrap_or(0)
}
