//! Space on disk for a pair of tokens, and the pair in it: whole and durable before anything depends on it.

use super::folder::RESERVED;
use crate::store::records::Tokens;
use crate::system::disk::{explain, is_anothers, open_to_read, private, Reason};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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

/// Dropped it leaves nothing behind, unless a pair was written into it.
pub struct Reserved {
    file: File,
    path: PathBuf,
    keep: bool,
}

impl Reserved {
    pub fn take(path: PathBuf) -> Result<Reserved, Reason> {
        let mut options = OpenOptions::new();
        // What an earlier writer left is settled by now; whatever else stands there is not written to.
        options.write(true).create_new(true);
        private(&mut options);
        let file = options.open(&path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => format!("cannot create {} (it is there already): move it away", path.display()),
            _ => explain(&e, "create", &path),
        })?;
        let reserved = Reserved { file, path, keep: false };
        (&reserved.file)
            .write_all(&[b' '; RESERVED])
            .and_then(|()| reserved.file.sync_all())
            .map_err(|e| explain(&e, "write", &reserved.path))?;
        Ok(reserved)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From here on the pair stays, whatever happens, for whoever comes next.
    pub fn write(&mut self, tokens: &Tokens, replaces: &str) -> Result<(), Reason> {
        let bytes = serde_json::to_vec_pretty(&Written { tokens, replaces }).expect("plain data serializes");
        self.keep = true;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.set_len(bytes.len() as u64))
            .and_then(|()| file.sync_all())
            .map_err(|e| explain(&e, "write", &self.path))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What stands where the next pair is to be written.
pub enum LeftOver {
    Nothing,
    Bytes(Vec<u8>),
    /// A link, a pipe, another user's file: no writer of this program leaves that.
    Foreign,
}

pub fn left_over(path: &Path) -> std::io::Result<LeftOver> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(LeftOver::Nothing),
        metadata => metadata?,
    };
    if !metadata.is_dir() && (!metadata.is_file() || is_anothers(&metadata)) {
        return Ok(LeftOver::Foreign);
    }
    let mut bytes = Vec::new();
    open_to_read(path)?.take(RESERVED as u64 + 1).read_to_end(&mut bytes)?;
    Ok(LeftOver::Bytes(bytes))
}
