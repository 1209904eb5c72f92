//! How a pair of tokens takes the place of another, whole and durable: written beside it into space that was taken before,
//! synced, and renamed over it. Made by the lock alone.

use super::folder::{Folder, RESERVED};
use crate::store::records::Tokens;
use crate::store::{Replaced, Room};
use crate::system::disk::{explain, private, Reason};
use crate::values::portal::PortalName;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// A pair as it is written: with the fingerprint of the one that it replaces, empty where none is stored, so that whoever
/// finds it left behind knows whether it still follows from what is stored.
#[derive(Serialize)]
struct Written<'t> {
    #[serde(flatten)]
    tokens: &'t Tokens,
    replaces: &'t str,
}

/// What a written pair says of the one that it replaces; `None`: it is version 0.1's, or nothing of this program's.
pub fn replaced_by(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        replaces: Option<String>,
    }
    serde_json::from_slice::<Said>(bytes).ok()?.replaces
}

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
        // What an earlier writer left is settled by now; whatever else stands there is not written to.
        options.write(true).create_new(true);
        private(&mut options);
        let file = options.open(&path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => format!("cannot create {} (it is there already): move it away", path.display()),
            _ => explain(&e, "create", &path),
        })?;
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
        let written = Written { tokens, replaces: expected.unwrap_or_default() };
        let bytes = serde_json::to_vec_pretty(&written).expect("plain data serializes");
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
        self.folder.sync();
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
