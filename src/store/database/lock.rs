//! A portal's lock: this node's lock file, and in the database a lease, which nodes that die or lose their network do not keep.

use super::lease::{new_lease, SURE};
use super::link::{Renewal, Use};
use super::node::{notes_of, Node};
use super::private::Private;
use super::statements::{Row, Statements};

use crate::store::file::reserved::Reserved;
use crate::store::records::{Installation, Notes, Tokens};
use crate::store::{Lock, Replaced, Room};
use crate::system::clock::Deadline;
use crate::system::disk::Reason;
use crate::values::moved::told_in;
use crate::values::portal::PortalName;
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For how long a new pair is tried to be stored where the database does not answer; then it waits in its file.
const TRIES: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// The lease ends when it is dropped, or soon after its process has ended.
pub struct RowLock {
    database: Node,
    portal: PortalName,
    private: Private,
    lease: i64,
    /// `None`: it was passed on, and the lease with it.
    file: Option<File>,
    /// As they are stored: nobody else writes them while the lease lasts.
    notes: Mutex<Notes>,
    renewal: Mutex<Option<Renewal>>,
    _use: Use,
}

impl RowLock {
    /// Takes the lease, over the node's lock; `None`: another node has it.
    pub fn take(database: &Node, portal: &PortalName, file: File) -> Result<Option<RowLock>, Reason> {
        let private = Private::new(&database.folder, portal);
        let (lease, left) = (new_lease(), Private::lease_in(&file));
        private.note_lease(&file, lease)?;
        let taken = database.link.ask(|statements| statements.take_lease(portal.as_str(), lease, left))?;
        Ok(taken.map(|row| RowLock::over(database, portal, file, lease, &row)))
    }

    /// Goes on with the lease of whoever handed the node's lock over. Where it has ended, and somebody else had one since, that
    /// one has perhaps done already what was to be done.
    pub fn adopt(database: &Node, portal: &PortalName, file: File) -> Result<RowLock, Reason> {
        Private::new(&database.folder, portal).adopt(&file)?;
        let lease = Private::lease_in(&file);
        let renewed = database.link.ask(|statements| {
            let is_ours = lease != 0 && statements.renew_lease(portal.as_str(), lease)?;
            if is_ours {
                statements.portal(portal.as_str())
            } else {
                Ok(None)
            }
        })?;
        let row = renewed.ok_or_else(|| format!("another node has taken over the refresh of {portal}"))?;
        Ok(RowLock::over(database, portal, file, lease, &row))
    }

    fn over(database: &Node, portal: &PortalName, file: File, lease: i64, row: &Row) -> RowLock {
        RowLock {
            database: database.clone(),
            portal: portal.clone(),
            private: Private::new(&database.folder, portal),
            lease,
            file: Some(file),
            notes: Mutex::new(notes_of(row)),
            renewal: Mutex::default(),
            _use: database.link.used(),
        }
    }

    fn renew(&self) -> Result<(), Reason> {
        let mut renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if renewal.is_none() {
            let (portal, lease) = (self.portal.clone(), self.lease);
            let renew = move |statements: &mut dyn Statements| statements.renew_lease(portal.as_str(), lease);
            *renewal = Some(Renewal::start(&self.database.link, renew)?);
        }
        Ok(())
    }
}

impl Lock for RowLock {
    fn read(&self) -> Result<Installation, Reason> {
        self.database.stored(&self.portal)
    }

    fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lease lasts for a while when it returns, so that what it says is about to be done can be. Where the answer took
    /// too long, another node may have the lease by now, and have begun the same.
    fn write_notes(&self, notes: &Notes) -> Result<(), Reason> {
        let text = serde_json::to_string(notes).expect("plain data serializes");
        let (portal, lease, asked) = (self.portal.as_str(), self.lease, Instant::now());
        match self.database.link.ask(|statements| statements.write_notes(portal, lease, &text))? {
            true => *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes.clone(),
            false => return Err(format!("another node has taken over the lock of {portal}")),
        }
        match asked.elapsed() < SURE {
            true => Ok(()),
            false => Err(format!("the database took so long that another node may have the lock of {portal}")),
        }
    }

    /// From here on the lease is renewed: something is about to be spent, which may take long.
    fn reserve(&self) -> Result<Box<dyn Room + '_>, Reason> {
        self.renew()?;
        Ok(Box::new(PrivateRoom { lock: self, reserved: self.private.reserve()? }))
    }

    /// It stays in the row.
    fn set_aside(&self, expected: &str) -> Result<Replaced, Reason> {
        let (portal, mut is_repeated) = (self.portal.as_str(), false);
        let is_done = self.database.link.ask(|statements| {
            // It may have been set aside before the connection was lost.
            let is_gone = |row: Row| row.pair.is_none() && row.moved.is_none();
            let was_asked = std::mem::replace(&mut is_repeated, true);
            Ok(statements.set_aside(portal, expected)? || was_asked && statements.portal(portal)?.is_some_and(is_gone))
        })?;
        Ok(if is_done { Replaced::Yes } else { Replaced::OtherIsStored })
    }

    fn pass_on(mut self: Box<Self>) -> File {
        self.file.take().expect("it is passed on once")
    }
}

impl Drop for RowLock {
    fn drop(&mut self) {
        if self.file.is_some() {
            drop(self.renewal.get_mut().map(Option::take));
            // Where it cannot be given back it ends by itself.
            let _ = self.database.link.ask(|statements| statements.leave_lease(self.portal.as_str(), self.lease));
        }
    }
}

/// Room on this node: the pair is safe here before the database is told of it.
struct PrivateRoom<'l> {
    lock: &'l RowLock,
    reserved: Reserved,
}

impl Room for PrivateRoom<'_> {
    fn replace(mut self: Box<Self>, expected: Option<&str>, tokens: &Tokens) -> Result<Replaced, Reason> {
        let RowLock { database, portal, private, .. } = self.lock;
        // If it cannot be written, the database is the one place left.
        let written = self.reserved.write(tokens, expected.unwrap_or_default());
        let until = Deadline::after(TRIES);
        let replaced = loop {
            match database.put(portal, expected, tokens) {
                Ok(replaced) => break replaced,
                Err(why) if until.has_passed() || told_in(&why).is_some() => {
                    return Err(match written {
                        Ok(()) => format!("{why}; the new tokens wait in {}", self.reserved.path().display()),
                        Err(not_written) => format!("{why}; {not_written}"),
                    })
                }
                Err(_) => std::thread::sleep(BETWEEN_TRIES),
            }
        };
        private.is_settled(self.reserved.path())?;
        Ok(replaced)
    }
}
