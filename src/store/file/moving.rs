//! A portal of the token folder that moves.
//!
//! ```text
//! tokens/acme.bitrix24.ru.moved           where it has moved to, or where it comes from; says nothing where a pair stands
//! tokens/acme.bitrix24.ru.json.arriving   the pair that comes, until all is there
//! ```

use super::events::{Appending, Mailbox};
use super::folder::Folder;
use super::gate::{self, Closed};
use super::idempotency::Keys;
use super::journal;
use super::lock::FileLock;
use super::reserved::Reserved;
use crate::store::moving::{KeptKey, State, Still};
use crate::store::records::{Event, Installation, Notes, Tokens};
use crate::store::{waited_for, Lock, POLL};
use crate::system::clock::{unix_now, Deadline};
use crate::system::disk::{explain, open_to_read, put_in_place, Reason};
use crate::values::moved::Mark;
use crate::values::portal::PortalName;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;

/// Marks are short.
const MOST: u64 = 64 << 10;

impl Folder {
    fn mark_file(&self, portal: &PortalName) -> PathBuf {
        self.of_portal(portal, "moved")
    }

    /// Whether the portal is not here: where it has moved to, or that it has not arrived. A pair is always here.
    pub fn mark(&self, portal: &PortalName) -> Result<Option<Mark>, Reason> {
        let path = self.mark_file(portal);
        let mut text = Vec::new();
        match open_to_read(&path).and_then(|file| file.take(MOST).read_to_end(&mut text)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| explain(&e, "read", &path))?,
        };
        if self.tokens(portal).symlink_metadata().is_ok() {
            return Ok(None);
        }
        let damaged = |_| format!("{} is damaged: where has this portal moved to?", path.display());
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Durable when it returns.
    fn set_mark(&self, portal: &PortalName, mark: &Mark) -> Result<(), Reason> {
        let (path, new) = (self.mark_file(portal), self.of_portal(portal, "moved.new"));
        let text = serde_json::to_vec(mark).expect("plain data serializes");
        put_in_place(&new, &path, |file| file.write_all(&text))?;
        self.sync();
        Ok(())
    }

    /// Those of all clients.
    fn all_keys(&self) -> Vec<(String, Keys)> {
        let folders = std::fs::read_dir(self.path.join("idempotency")).into_iter().flatten().flatten();
        let folders = folders.map(|entry| entry.path()).filter(|path| path.is_dir());
        let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), Keys::new(path, self.quota)));
        folders.filter_map(named).collect()
    }

    pub fn portals_in_it(&self) -> Vec<PortalName> {
        let mut portals = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let stem = [".json", ".moved"].iter().find_map(|ending| name.strip_suffix(ending));
            portals.extend(stem.and_then(|stem| PortalName::parse(&stem.replace('_', ":"))));
        }
        portals.into_iter().collect()
    }

    pub fn state_of(&self, portal: &PortalName) -> Result<State, Reason> {
        if let Some(mark) = self.mark(portal)? {
            return Ok(State::Marked(mark));
        }
        let has_key = || {
            let mut keys = self.all_keys().into_iter().flat_map(|(_, keys)| keys.of_portal(portal));
            keys.any(|(_, mut file)| journal::portal_of(&mut file, unix_now()).is_some_and(|said| !said.is_empty()))
        };
        let has_event = Mailbox::new(self, portal).last()? > 0;
        Ok(match self.pair(portal)? {
            Installation::NotInstalled if !has_event && !has_key() => State::Nothing,
            Installation::NotInstalled | Installation::Installed(_) => State::Here,
            Installation::Broken(why) => return Err(why),
        })
    }

    pub fn keep_still(&self, portal: &PortalName, until: Deadline) -> Result<Option<StillFiles<'_>>, Reason> {
        let Some(lock) = waited_for(until, POLL, || self.try_file_lock(portal))? else { return Ok(None) };
        // What is left of a pair that replaces one that is not here says nothing.
        if self.mark(portal)?.is_none() {
            lock.settle()?;
        }
        let Some(closed) = gate::close(self, portal, until)? else { return Ok(None) };
        let events = Appending::lock(&self.prepare_events(portal)?)?.settled()?;
        Ok(Some(StillFiles { folder: self, portal: portal.clone(), lock, events, _closed: closed }))
    }
}

pub struct StillFiles<'f> {
    folder: &'f Folder,
    portal: PortalName,
    lock: FileLock,
    events: Appending,
    _closed: Closed,
}

impl StillFiles<'_> {
    fn arriving(&self) -> PathBuf {
        self.folder.of_portal(&self.portal, "json.arriving")
    }
}

fn remove(path: &PathBuf) -> Result<(), Reason> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(explain(&error, "remove", path)),
        _ => Ok(()),
    }
}

impl Still for StillFiles<'_> {
    fn belongings(&self) -> Result<(Option<Tokens>, Notes), Reason> {
        let tokens = match self.lock.read()? {
            Installation::NotInstalled => None,
            Installation::Installed(tokens) => Some(*tokens),
            Installation::Broken(why) => return Err(why),
        };
        Ok((tokens, self.lock.notes()))
    }

    fn each_key(&self, take: &mut dyn FnMut(KeptKey) -> Result<(), Reason>) -> Result<(), Reason> {
        for (client, keys) in self.folder.all_keys() {
            for (path, mut file) in keys.of_portal(&self.portal) {
                let whole = journal::whole(&mut file, unix_now()).map_err(|e| explain(&e, "read", &path))?;
                let Some(whole) = whole else { continue };
                take(KeptKey {
                    client: client.clone(),
                    key: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                    portal: whole.portal,
                    request: whole.request,
                    begun_at: whole.at.saturating_mul(1000),
                    entries: whole.entries,
                })?;
            }
        }
        Ok(())
    }

    fn each_event(&self, take: &mut dyn FnMut(&[Event]) -> Result<(), Reason>) -> Result<u64, Reason> {
        self.events.each(take)
    }

    fn put_events(&self, events: &[Event]) -> Result<(), Reason> {
        self.events.put(events)
    }

    fn put_last_event(&self, number: u64) -> Result<(), Reason> {
        self.events.put_last(number)
    }

    fn expect(&self, from: &str) -> Result<(), Reason> {
        self.folder.set_mark(&self.portal, &Mark::Arriving { from: from.to_owned() })?;
        remove(&self.arriving())?;
        for (_, keys) in self.folder.all_keys() {
            for (path, mut file) in keys.of_portal(&self.portal) {
                if journal::portal_of(&mut file, unix_now()).is_some_and(|said| !said.is_empty()) {
                    remove(&path)?;
                }
            }
        }
        self.events.forget()
    }

    fn put_key(&self, key: &KeptKey) -> Result<(), Reason> {
        Keys::new(self.folder.path.join("idempotency").join(&key.client), self.folder.quota).put(key)
    }

    fn put(&self, tokens: Option<&Tokens>, notes: &Notes) -> Result<(), Reason> {
        for (_, keys) in self.folder.all_keys() {
            keys.count_again()?;
        }
        self.lock.write_notes(notes)?;
        if let Some(tokens) = tokens {
            Reserved::take(self.arriving())?.write(tokens, "")?;
            self.folder.sync();
        }
        Ok(())
    }

    /// Where the pair stands in its place the mark says nothing any more.
    fn arrived(&self) -> Result<(), Reason> {
        let (arriving, place) = (self.arriving(), self.folder.tokens(&self.portal));
        match std::fs::rename(&arriving, &place) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(explain(&error, "replace", &place)),
            _ => self.folder.sync(),
        }
        remove(&self.folder.mark_file(&self.portal))?;
        self.folder.sync();
        Ok(())
    }

    /// The mark says something from when the pair is gone.
    fn moved(&self, to: &str) -> Result<(), Reason> {
        self.folder.set_mark(&self.portal, &Mark::Moved { to: to.to_owned() })?;
        remove(&self.folder.tokens(&self.portal))?;
        remove(&self.folder.next_tokens(&self.portal))?;
        self.folder.sync();
        Ok(())
    }
}
