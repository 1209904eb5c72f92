//! A portal's lock: the open lock file, with the notes in it. Whoever writes a pair has it from here, so that unlocked
//! writing cannot be written by accident.

use super::folder::{parse, Folder};
use super::in_place;
use super::replace::Reserved;
use crate::store::records::{Installation, Notes};
use crate::store::{Lock, Replaced, Room};
use crate::system::disk::{explain, Reason};
use crate::values::portal::PortalName;
use std::fs::File;
use std::io::{ErrorKind, Read};
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

    /// Ends what a killed writer began: a next pair that is whole takes its place (the old one may be spent), anything else
    /// is removed. Where it cannot take its place it stays, and nobody may write: it may be the only live pair.
    pub fn settle(&self) -> Result<(), Reason> {
        let path = self.folder.next_tokens(&self.portal);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes).map(|_| file));
        let file = match read {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(explain(&error, "read", &path)),
        };
        if parse(&bytes).is_err() {
            let _ = std::fs::remove_file(&path);
            return Ok(());
        }
        if matches!(self.read()?, Installation::Broken(_)) {
            return Ok(());
        }
        file.sync_all().map_err(|e| explain(&e, "write", &path))?;
        std::fs::rename(&path, &self.json).map_err(|e| explain(&e, "replace", &self.json))
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
        Ok(Box::new(Reserved::take(&self.folder, &self.portal)?))
    }

    /// As `NAME.json.removed`.
    fn set_aside(&self, expected: &str) -> Result<Replaced, Reason> {
        if !self.folder.holds(&self.portal, Some(expected))? {
            return Ok(Replaced::OtherIsStored);
        }
        std::fs::rename(&self.json, self.json.with_extension("json.removed"))
            .map_err(|e| explain(&e, "rename", &self.json))?;
        Ok(Replaced::Yes)
    }

    fn pass_on(self: Box<Self>) -> File {
        self.file
    }
}
