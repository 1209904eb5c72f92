//! The node's own files of a portal, in the token folder: its lock, in front of the database's lease, and the pair that must
//! not be lost between the OAuth server's answer and the database.
//!
//! ```text
//! tokens/acme.bitrix24.ru.lock   flock by the one on this node who asks the database; the lease that it took stands in it
//! tokens/acme.bitrix24.ru.next   room for the next pair, and the pair until the database has it: whoever comes next stores it
//! tokens/acme.bitrix24.ru.kept   the same pair for an hour after that: a server that takes over may be behind
//! ```

use crate::store::file::reserved::{left_over, replaced_by, LeftOver, Reserved};
use crate::store::file::{in_place, parse, Folder};
use crate::store::records::Tokens;
use crate::system::disk::{explain, is_contended, open_or_create_in_folder, same_file, Reason};
use crate::values::portal::PortalName;
use fs2::FileExt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KEPT_FOR: Duration = Duration::from_secs(3600);

/// One portal's files.
#[derive(Clone)]
pub struct Private {
    folder: Folder,
    portal: PortalName,
}

/// A pair that is written down here.
pub struct Found {
    pub tokens: Tokens,
    /// The fingerprint of the one that it replaces; empty: of none.
    pub replaces: String,
    path: PathBuf,
}

impl Private {
    pub fn new(folder: &Folder, portal: &PortalName) -> Private {
        Private { folder: folder.clone(), portal: portal.clone() }
    }

    fn next(&self) -> PathBuf {
        self.folder.of_portal(&self.portal, "next")
    }

    fn kept(&self) -> PathBuf {
        self.folder.of_portal(&self.portal, "kept")
    }

    /// The lock of this node; `None`: somebody else on it has it.
    pub fn try_lock(&self) -> Result<Option<File>, Reason> {
        let path = self.folder.lock_file(&self.portal);
        let file = open_or_create_in_folder(&path)?;
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Some(file)),
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(explain(&error, "lock", &path)),
        }
    }

    /// The lock that another process handed over.
    pub fn adopt(&self, passed_on: &File) -> Result<(), Reason> {
        let path = self.folder.lock_file(&self.portal);
        if !same_file(passed_on, &path) {
            return Err(format!("what was handed over is not {}", path.display()));
        }
        FileExt::try_lock_exclusive(passed_on).map_err(|e| explain(&e, "lock", &path))
    }

    /// The lease that whoever held the lock before has taken: nobody uses it any more. 0: none.
    pub fn lease_in(lock: &File) -> i64 {
        in_place::read(lock).unwrap_or_default()
    }

    /// Written before it is taken, so that whoever locks next may take it over. Not synced: it outlives no machine.
    pub fn note_lease(&self, lock: &File, lease: i64) -> Result<(), Reason> {
        in_place::write(lock, &lease).map_err(|e| explain(&e, "write", &self.folder.lock_file(&self.portal)))
    }

    /// Whether a pair waits to be stored, or room for one has been taken.
    pub fn waits(&self) -> bool {
        self.next().symlink_metadata().is_ok()
    }

    pub fn reserve(&self) -> Result<Reserved, Reason> {
        let reserved = Reserved::take(self.next())?;
        self.folder.sync();
        Ok(reserved)
    }

    /// The pairs that are written down here, under the lock. Whatever else stands in their place is removed.
    pub fn found(&self) -> Result<Vec<Found>, Reason> {
        self.remove_old();
        let mut found = Vec::new();
        for path in [self.next(), self.kept()] {
            let bytes = match left_over(&path).map_err(|e| explain(&e, "read", &path))? {
                LeftOver::Nothing => continue,
                LeftOver::Foreign => None,
                LeftOver::Bytes(bytes) => Some(bytes),
            };
            let pair = bytes.and_then(|bytes| Some((parse(&bytes).ok()?, replaced_by(&bytes)?)));
            match pair {
                // What was kept of a first pair says nothing of one that was set aside since.
                Some((_, replaces)) if replaces.is_empty() && path == self.kept() => {}
                Some((tokens, replaces)) => found.push(Found { tokens, replaces, path }),
                None => remove(&path)?,
            }
        }
        Ok(found)
    }

    /// The database has this pair, or one that makes it worthless.
    pub fn is_settled(&self, path: &Path) -> Result<(), Reason> {
        let kept = self.kept();
        if path != kept {
            // Its hour begins, before anybody looks at it.
            let now = std::time::SystemTime::now();
            let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(now));
            std::fs::rename(path, &kept).map_err(|e| explain(&e, "rename", path))?;
        }
        Ok(())
    }

    /// What was kept long enough.
    pub fn remove_old(&self) {
        let kept = self.kept();
        let Ok(written) = kept.symlink_metadata().and_then(|metadata| metadata.modified()) else { return };
        // A clock that was set back keeps nothing for ever.
        if !written.elapsed().is_ok_and(|age| age < KEPT_FOR) {
            let _ = std::fs::remove_file(kept);
        }
    }
}

impl Found {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn remove(path: &Path) -> Result<(), Reason> {
    std::fs::remove_file(path).map_err(|e| explain(&e, "remove", path))
}
