//! How a pair of tokens takes the place of another, whole and durable: written beside it into space that was taken before,
//! synced, and renamed over it. Made by the lock alone.

use super::folder::{Folder, RESERVED};
use crate::store::records::Tokens;
use crate::store::{Replaced, Room};
use crate::system::disk::{explain, private, Reason};
use crate::values::portal::PortalName;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

/// Space on disk for the next pair.
pub struct Reserved<'l> {
    file: File,
    path: PathBuf,
    /// A pair was written here. Where it cannot take its place, whoever locks next decides what becomes of it.
    keep: bool,
    folder: &'l Folder,
    portal: &'l PortalName,
}

impl<'l> Reserved<'l> {
    pub fn take(folder: &'l Folder, portal: &'l PortalName) -> Result<Reserved<'l>, Reason> {
        let path = folder.next_tokens(portal);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private(&mut options);
        let file = options.open(&path).map_err(|e| explain(&e, "create", &path))?;
        let reserved = Reserved { file, path, keep: false, folder, portal };
        (&reserved.file)
            .write_all(&[b' '; RESERVED])
            .and_then(|()| reserved.file.sync_all())
            .map_err(|e| explain(&e, "write", &reserved.path))?;
        Ok(reserved)
    }
}

impl Room for Reserved<'_> {
    /// The folder is synced last, so that after a power cut one of the two pairs is there, whole.
    fn replace(mut self: Box<Self>, expected: Option<&str>, tokens: &Tokens) -> Result<Replaced, Reason> {
        let is_expected = self.folder.holds(self.portal, expected);
        if is_expected == Ok(false) {
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
        is_expected?;
        let place = self.folder.tokens(self.portal);
        std::fs::rename(&self.path, &place).map_err(|e| explain(&e, "replace", &place))?;
        // Not every file system can sync a folder; the pair is in place either way.
        if let Ok(folder) = File::open(&self.folder.path) {
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
