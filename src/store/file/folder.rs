//! The folder itself: the names in it, and how a pair is read.

use crate::store::records::{Installation, Tokens};
use crate::store::{Quota, QUOTA};
use crate::system::disk::{explain, open_to_look, read_at_once, Identity, Reason, YOUNG};
use crate::system::user::typed;
use crate::values::portal::PortalName;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Space taken for the next pair. Pairs are below 2 KiB; the OAuth server's answer is bounded well below this.
pub const RESERVED: usize = 64 << 10;

/// One folder, and the one place that knows how it is laid out.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub quota: Quota,
    /// Pairs that were read, where the process stays, and of which file.
    kept: Option<Kept>,
}

type Kept = Arc<Mutex<HashMap<PortalName, (Identity, Tokens)>>>;

impl Folder {
    pub fn new(path: &Path) -> Folder {
        Folder::with_quota(path, QUOTA)
    }

    pub fn with_quota(path: &Path, quota: Quota) -> Folder {
        Folder { path: path.to_owned(), quota, kept: None }
    }

    /// For a process that stays: a pair is read again where its file is another one.
    pub fn keeping(self) -> Folder {
        Folder { kept: Some(Kept::default()), ..self }
    }

    /// The file of a portal's pair.
    pub fn tokens(&self, portal: &PortalName) -> PathBuf {
        self.of_portal(portal, "json")
    }

    /// The file in which the next pair is written.
    pub fn next_tokens(&self, portal: &PortalName) -> PathBuf {
        self.of_portal(portal, "json.new")
    }

    /// A next pair that was found without a proof that it follows from the stored one.
    pub fn left_over(&self, portal: &PortalName) -> PathBuf {
        self.of_portal(portal, "json.left")
    }

    /// Names of pairs in the folder that are of none of these portals.
    pub fn strays<'p>(&self, portals: impl Iterator<Item = &'p PortalName>) -> Vec<String> {
        let known: Vec<PathBuf> = portals.map(|portal| self.tokens(portal)).collect();
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let pairs = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let strays = pairs.filter(|path| !known.contains(path));
        let mut names: Vec<String> = strays.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
        names.sort();
        names
    }

    pub fn of_portal(&self, portal: &PortalName, ending: &str) -> PathBuf {
        self.path.join(format!("{}.{ending}", portal.file_stem()))
    }

    pub fn lock_file(&self, portal: &PortalName) -> PathBuf {
        self.of_portal(portal, "lock")
    }

    /// So that what was renamed is so after a power cut. Not every file system can sync a folder; it is in place either way.
    pub fn sync(&self) {
        if let Ok(folder) = File::open(&self.path) {
            let _ = folder.sync_all();
        }
    }

    /// What is stored for a portal, as far as can be told without opening it. Nobody may write by this: a file system of the
    /// network says for a while what was.
    pub fn pair_at_a_glance(&self, portal: &PortalName) -> Result<Installation, Reason> {
        let Some(mut kept) = self.kept.as_ref().and_then(|kept| kept.lock().ok()) else { return self.pair(portal) };
        let there = self.tokens(portal).symlink_metadata().ok().as_ref().map(Identity::of_metadata);
        match kept.get(portal) {
            Some((known, tokens)) if Some(*known) == there => {
                return Ok(Installation::Installed(Box::new(tokens.clone())));
            }
            _ => {}
        }
        let (found, identity) = self.read_pair(portal)?;
        let identity = identity.filter(|identity| identity.is_older(YOUNG, SystemTime::now()));
        match (&found, identity) {
            (Installation::Installed(tokens), Some(identity)) => {
                kept.insert(portal.clone(), (identity, tokens.as_ref().clone()));
            }
            _ => drop(kept.remove(portal)),
        }
        Ok(found)
    }

    /// What is stored for a portal.
    pub fn pair(&self, portal: &PortalName) -> Result<Installation, Reason> {
        self.read_pair(portal).map(|(found, _)| found)
    }

    /// And of which file.
    fn read_pair(&self, portal: &PortalName) -> Result<(Installation, Option<Identity>), Reason> {
        let path = self.tokens(portal);
        let (file, metadata) = match open_to_look(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return match self.mark(portal)? {
                    Some(mark) => Err(mark.sentence(portal)),
                    None => Ok((Installation::NotInstalled, None)),
                }
            }
            Err(error) => return Err(explain(&error, "read", &path)),
        };
        self.refuse_readable_by_others(&metadata, &path)?;
        // A token file is small; whatever is larger is not one.
        let bytes = read_at_once(&file, RESERVED + 1).map_err(|e| explain(&e, "read", &path))?;
        let found = match parse(&bytes) {
            Ok(tokens) => Installation::Installed(Box::new(tokens)),
            Err(why) => Installation::Broken(format!(
                "the token file {} is damaged ({why}). It is left as it is: restore it from a copy, or move it away and \
                 install the application again",
                path.display()
            )),
        };
        // Of one that only its folder keeps from others, the folder is looked at each time.
        Ok((found, (!is_open(&metadata)).then(|| Identity::of_metadata(&metadata))))
    }

    /// Whether this pair (its fingerprint), or with `None` no pair, is what is stored.
    pub fn holds(&self, portal: &PortalName, expected: Option<&str>) -> Result<bool, Reason> {
        match (self.pair(portal)?, expected) {
            (Installation::Installed(tokens), Some(expected)) => Ok(tokens.fingerprint() == expected),
            (Installation::NotInstalled, expected) => Ok(expected.is_none()),
            (Installation::Installed(_), None) => Ok(false),
            (Installation::Broken(why), _) => Err(why),
        }
    }

    /// A token file is as secret as the configuration, unless its folder keeps everybody out.
    #[cfg(unix)]
    fn refuse_readable_by_others(&self, metadata: &Metadata, path: &Path) -> Result<(), Reason> {
        use std::os::unix::fs::MetadataExt;
        if is_open(metadata) && self.path.metadata().is_ok_and(|folder| folder.mode() & 0o077 != 0) {
            return Err(format!(
                "{path} can be read or written by others than its owner: chmod 700 {} && chmod 600 {path}",
                typed(&self.path),
                path = typed(path)
            ));
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn refuse_readable_by_others(&self, _: &Metadata, _: &Path) -> Result<(), Reason> {
        Ok(())
    }
}

/// Whether others may read or write it, where its folder lets them in.
#[cfg(unix)]
fn is_open(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::mode(metadata) & 0o066 != 0
}

#[cfg(not(unix))]
fn is_open(_: &Metadata) -> bool {
    false
}

/// Reads a file of tokens.
pub fn parse(bytes: &[u8]) -> Result<Tokens, String> {
    match bytes.len() > RESERVED {
        true => Err("it is too large".into()),
        false => Tokens::parse(bytes),
    }
}
