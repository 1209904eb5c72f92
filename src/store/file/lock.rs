//! A portal's lock: the open lock file, with the notes in it. Whoever writes a pair has it from here, so that unlocked
//! writing cannot be written by accident.

use super::folder::{parse, Folder};
use super::in_place;
use super::replace::Next;
use super::reserved::{left_over, replaced_by, LeftOver};
use crate::store::records::{Installation, Notes, Tokens};
use crate::store::{Lock, Replaced, Room};
use crate::system::disk::{explain, Reason};
use crate::values::portal::PortalName;
use std::fs::File;
use std::path::PathBuf;

/// Released when dropped, or when the process ends.
pub struct FileLock {
    file: File,
    folder: Folder,
    portal: PortalName,
    json: PathBuf,
}

impl FileLock {
    pub fn new(file: File, folder: Folder, portal: PortalName) -> FileLock {
        let json = folder.tokens(&portal);
        FileLock { file, folder, portal, json }
    }

    /// Ends what a killed writer began. A next pair that is whole and replaces exactly what is stored takes its place (the
    /// old one may be spent). One that does not is moved aside, for it may be an older one that somebody put there, and
    /// nobody but a person can tell. Anything else is removed. Where a pair cannot take its place it stays, and nobody may
    /// write: it may be the only live pair.
    pub fn settle(&self) -> Result<(), Reason> {
        let path = self.folder.next_tokens(&self.portal);
        let remove = || std::fs::remove_file(&path).map_err(|e| explain(&e, "remove", &path));
        let bytes = match left_over(&path).map_err(|e| explain(&e, "read", &path))? {
            LeftOver::Nothing => return Ok(()),
            LeftOver::Foreign => return remove(),
            LeftOver::Bytes(bytes) => bytes,
        };
        let Ok(next) = parse(&bytes) else { return remove() };
        let stored = match self.read()? {
            Installation::Broken(_) => return Ok(()),
            Installation::NotInstalled => None,
            Installation::Installed(tokens) => Some(*tokens),
        };
        let place = match follows(&bytes, stored.as_ref(), &self.notes()) {
            true => self.json.clone(),
            false if stored.is_some_and(|stored| stored.fingerprint() == next.fingerprint()) => return remove(),
            false => self.folder.left_over(&self.portal),
        };
        File::open(&path).and_then(|file| file.sync_all()).map_err(|e| explain(&e, "write", &path))?;
        // After a power cut that takes this back, the next one does it again.
        std::fs::rename(&path, &place).map_err(|e| explain(&e, "replace", &place))
    }
}

/// Whether a pair that was left behind replaces exactly what is stored. It says so itself; of one of version 0.1, which does
/// not, the note of a refresh that was begun with the stored pair and has not ended says it.
fn follows(next: &[u8], stored: Option<&Tokens>, notes: &Notes) -> bool {
    match (replaced_by(next), stored) {
        (Some(replaced), None) => replaced.is_empty(),
        (Some(replaced), Some(stored)) => replaced == stored.fingerprint(),
        (None, Some(stored)) => {
            notes.refresh.as_ref().is_some_and(|last| last.failure.is_none() && last.speaks_of(stored))
        }
        (None, None) => false,
    }
}

impl Lock for FileLock {
    fn read(&self) -> Result<Installation, Reason> {
        self.folder.pair(&self.portal)
    }

    fn notes(&self) -> Notes {
        in_place::read(&self.file).unwrap_or_default()
    }

    fn write_notes(&self, notes: &Notes) -> Result<(), Reason> {
        in_place::write(&self.file, notes)
            .and_then(|()| self.file.sync_data())
            .map_err(|e| explain(&e, "write the lock file of", &self.json))
    }

    fn reserve(&self) -> Result<Box<dyn Room + '_>, Reason> {
        Ok(Box::new(Next::reserve(&self.folder, &self.portal)?))
    }

    /// As `NAME.json.removed`.
    fn set_aside(&self, expected: &str) -> Result<Replaced, Reason> {
        if !self.folder.holds(&self.portal, Some(expected))? {
            return Ok(Replaced::OtherIsStored);
        }
        std::fs::rename(&self.json, self.json.with_extension("json.removed"))
            .map_err(|e| explain(&e, "rename", &self.json))?;
        self.folder.sync();
        Ok(Replaced::Yes)
    }

    fn pass_on(self: Box<Self>) -> File {
        self.file
    }
}
