//! A portal's lock: the open lock file, with the notes in it. A path to write to can be had only from here, so that
//! unlocked writing cannot be written by accident.

use super::folder::{parse, Folder, RESERVED};
use super::record;
use crate::store::records::{Installation, Notes, Tokens};
use crate::store::{Lock, Replaced, Room};
use crate::system::disk::{explain, private, Reason};
use crate::values::portal::PortalName;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
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

    fn next(&self) -> PathBuf {
        self.json.with_extension("json.new")
    }

    /// Ends what a killed writer began: a next pair that is whole takes its place (the old one may be spent), anything else
    /// is removed. Where it cannot take its place it stays, and nobody may write: it may be the only live pair.
    pub fn settle(&self) -> Result<(), Reason> {
        let path = self.next();
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

    /// Whether this pair (its fingerprint), or with `None` no pair, is stored.
    fn is_stored(&self, expected: Option<&str>) -> Result<bool, Reason> {
        match (self.read()?, expected) {
            (Installation::Installed(tokens), Some(expected)) => Ok(tokens.fingerprint() == expected),
            (Installation::NotInstalled, expected) => Ok(expected.is_none()),
            (Installation::Installed(_), None) => Ok(false),
            (Installation::Broken(why), _) => Err(why),
        }
    }
}

impl Lock for FileLock {
    fn read(&self) -> Result<Installation, Reason> {
        self.folder.pair(&self.portal)
    }

    fn notes(&self) -> Notes {
        record::read(&self.file).unwrap_or_default()
    }

    fn write_notes(&self, notes: &Notes) -> Result<(), Reason> {
        record::write(&self.file, notes)
            .and_then(|()| self.file.sync_data())
            .map_err(|e| explain(&e, "write the lock file of", &self.json))
    }

    /// Takes the space for it on the disk.
    fn reserve(&self) -> Result<Box<dyn Room + '_>, Reason> {
        let path = self.next();
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private(&mut options);
        let file = options.open(&path).map_err(|e| explain(&e, "create", &path))?;
        let reserved = Reserved { file, path, keep: false, lock: self };
        (&reserved.file)
            .write_all(&[b' '; RESERVED])
            .and_then(|()| reserved.file.sync_all())
            .map_err(|e| explain(&e, "write", &reserved.path))?;
        Ok(Box::new(reserved))
    }

    /// As `NAME.json.removed`.
    fn set_aside(&self, expected: &str) -> Result<Replaced, Reason> {
        if !self.is_stored(Some(expected))? {
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

/// Space on disk for the next pair.
struct Reserved<'l> {
    file: File,
    path: PathBuf,
    /// A pair was written here. Where it cannot take its place, [`FileLock::settle`] decides what becomes of it.
    keep: bool,
    lock: &'l FileLock,
}

impl Room for Reserved<'_> {
    /// Written into the space taken, synced, renamed over the old file, and the folder synced, so that after a power cut one
    /// of the two pairs is there, whole.
    fn replace(mut self: Box<Self>, expected: Option<&str>, tokens: &Tokens) -> Result<Replaced, Reason> {
        let is_stored = self.lock.is_stored(expected);
        if is_stored == Ok(false) {
            return Ok(Replaced::OtherIsStored);
        }
        let bytes = serde_json::to_vec_pretty(tokens).expect("plain data serializes");
        self.keep = true;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.set_len(bytes.len() as u64))
            .and_then(|()| file.sync_all())
            .map_err(|e| explain(&e, "write", &self.path))?;
        // What cannot be read is not overwritten; the new pair waits beside it.
        is_stored?;
        std::fs::rename(&self.path, &self.lock.json).map_err(|e| explain(&e, "replace", &self.lock.json))?;
        // Not every file system can sync a folder; the pair is in place either way.
        if let Some(Ok(folder)) = self.lock.json.parent().map(File::open) {
            let _ = folder.sync_all();
        }
        Ok(Replaced::Yes)
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
