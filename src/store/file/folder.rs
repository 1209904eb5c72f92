//! The folder itself: the names in it, and how a pair is read.

use crate::store::records::{Installation, Tokens};
use crate::store::{Quota, QUOTA};
use crate::system::disk::{explain, open_to_read, Reason};
use crate::system::user::typed;
use crate::values::portal::PortalName;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Space taken for the next pair. Pairs are below 2 KiB; the OAuth server's answer is bounded well below this.
pub const RESERVED: usize = 64 << 10;

/// One folder, and the one place that knows how it is laid out.
#[derive(Clone, Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub quota: Quota,
}

impl Folder {
    pub fn new(path: &Path) -> Folder {
        Folder::with_quota(path, QUOTA)
    }

    pub fn with_quota(path: &Path, quota: Quota) -> Folder {
        Folder { path: path.to_owned(), quota }
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

    /// What is stored for a portal.
    pub fn pair(&self, portal: &PortalName) -> Result<Installation, Reason> {
        let path = self.tokens(portal);
        let file = match open_to_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Installation::NotInstalled),
            Err(error) => return Err(explain(&error, "read", &path)),
        };
        self.refuse_readable_by_others(&file, &path)?;
        let mut bytes = Vec::with_capacity(4096);
        // A token file is small; whatever is larger is not one.
        (&file).take(RESERVED as u64 + 1).read_to_end(&mut bytes).map_err(|e| explain(&e, "read", &path))?;
        Ok(match parse(&bytes) {
            Ok(tokens) => Installation::Installed(Box::new(tokens)),
            Err(why) => Installation::Broken(format!(
                "the token file {} is damaged ({why}). It is left as it is: restore it from a copy, or move it away and \
                 install the application again",
                path.display()
            )),
        })
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
    fn refuse_readable_by_others(&self, file: &File, path: &Path) -> Result<(), Reason> {
        use std::os::unix::fs::MetadataExt;
        let open = |metadata: std::io::Result<std::fs::Metadata>, bits: u32| {
            metadata.is_ok_and(|metadata| metadata.mode() & bits != 0)
        };
        if open(file.metadata(), 0o066) && open(self.path.metadata(), 0o077) {
            return Err(format!(
                "{path} can be read or written by others than its owner: chmod 700 {} && chmod 600 {path}",
                typed(&self.path),
                path = typed(path)
            ));
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn refuse_readable_by_others(&self, _: &File, _: &Path) -> Result<(), Reason> {
        Ok(())
    }
}

/// Reads a file of tokens.
pub fn parse(bytes: &[u8]) -> Result<Tokens, String> {
    match bytes.len() > RESERVED {
        true => Err("it is too large".into()),
        false => Tokens::parse(bytes),
    }
}
