//! The token store: one JSON file a portal, replaced whole, written only under the portal's lock.
//!
//! ```text
//! tokens/acme.bitrix24.ru.json       the pair; read without a lock, always whole because it is replaced by rename
//! tokens/acme.bitrix24.ru.json.new   the next pair while it is being written; its space is taken before it is needed
//!                                    (whole when its writer is killed, it is put in place by whoever locks next)
//! tokens/acme.bitrix24.ru.lock       flock by whoever writes; holds the notes of the last refresh; never unlinked
//! ```
//!
//! A path to write to can be had only from a [`Lock`], so that unlocked writing cannot be written by accident.
//! On NFS, `flock` works where the server supports locks (Linux maps it to byte-range locks).

use crate::system::clock::Deadline;
use crate::system::disk::{
    create_private_folder, explain, is_contended, open_or_create, open_or_create_in_folder, private, same_file,
    writable, Reason, POLL,
};
use crate::system::user::typed;
use crate::upstream::oauth::Refusal;
use crate::values::json::number_or_text;
use crate::values::portal::PortalName;
use crate::values::secret::Secret;
use fs2::FileExt;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Space taken for the next pair. Pairs are below 2 KiB; the OAuth server's answer is bounded well below this.
pub const RESERVED: usize = 64 << 10;

/// A portal's tokens, as `NAME.json` holds them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tokens {
    #[serde(default)]
    pub member_id: String,
    /// As the OAuth server sent it: its own host.
    #[serde(default)]
    pub domain: String,
    pub client_endpoint: String,
    #[serde(default)]
    pub server_endpoint: String,
    pub access_token: Secret,
    pub refresh_token: Secret,
    /// Unix seconds: time of receipt + `expires_in`.
    pub expires_at: i64,
    #[serde(default)]
    pub scope: String,
    #[serde(default, deserialize_with = "number_or_text")]
    pub user_id: u64,
    #[serde(default)]
    pub application_token: Secret,
    #[serde(default)]
    pub client_id: String,
    #[serde(default)]
    pub installed_at: i64,
    /// Unix seconds; 0 = not refreshed since the installation.
    #[serde(default)]
    pub refreshed_at: i64,
    /// The configured address, where the OAuth server has told of a new one: only then may `client_endpoint` name
    /// another host than the configuration.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub renamed_from: String,
}

/// What is stored for a portal.
#[derive(Debug)]
pub enum Installation {
    NotInstalled,
    Installed(Box<Tokens>),
    /// The file is there but is not a pair of tokens: why. It is never overwritten.
    Broken(String),
}

/// What is known of a portal beside its tokens; kept in the lock file, because whoever holds the lock decides by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    pub refresh: Option<LastRefresh>,
    /// When the OAuth server was asked for an installation, in Unix seconds; those of the last minute.
    pub attempts: Vec<i64>,
}

/// What is known of the last refresh that did not end with a stored pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRefresh {
    /// Fingerprint of the refresh token that is or was spent.
    pub spent: String,
    /// Milliseconds since 1970.
    pub at: i64,
    /// `None` = begun, nothing known yet.
    pub failure: Option<Refusal>,
    /// The refresh before this one was interrupted between asking and storing.
    #[serde(default)]
    pub interrupted: bool,
}

impl LastRefresh {
    pub fn speaks_of(&self, tokens: &Tokens) -> bool {
        self.spent == tokens.refresh_token.fingerprint()
    }
}

#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    pub fn new(folder: &Path) -> Store {
        Store { folder: folder.to_owned() }
    }

    /// Reads without a lock: the file is only ever replaced whole.
    pub fn read(&self, portal: &PortalName) -> Result<Installation, Reason> {
        let path = self.file(portal);
        let file = match File::open(&path) {
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

    /// The notes of a portal, for showing; without the lock they may be those of a moment ago, or none.
    pub fn notes(&self, portal: &PortalName) -> Notes {
        let path = self.lock_file(portal);
        File::open(path).map(|file| read_notes(&file)).unwrap_or_default()
    }

    /// The lock of a portal if nobody holds it.
    pub fn try_lock(&self, portal: &PortalName) -> Result<Option<Lock>, Reason> {
        let path = self.lock_file(portal);
        let file = open_or_create_in_folder(&path)?;
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => {
                let lock = Lock { file, json: self.file(portal), store: self.clone(), portal: portal.clone() };
                lock.settle()?;
                Ok(Some(lock))
            }
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(explain(&error, "lock", &path)),
        }
    }

    /// Waits for the lock; `None` when the deadline passes first.
    pub fn lock(&self, portal: &PortalName, deadline: Deadline) -> Result<Option<Lock>, Reason> {
        loop {
            if let Some(lock) = self.try_lock(portal)? {
                return Ok(Some(lock));
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// The lock that another process took and handed over as an open file.
    pub fn adopt_lock(&self, portal: &PortalName, file: File) -> Result<Lock, Reason> {
        let path = self.lock_file(portal);
        if !same_file(&file, &path) {
            return Err(format!("what was handed over is not {}", path.display()));
        }
        FileExt::try_lock_exclusive(&file).map_err(|e| explain(&e, "lock", &path))?;
        Ok(Lock { file, json: self.file(portal), store: self.clone(), portal: portal.clone() })
    }

    /// Whether tokens could be stored: the folder is there (or can be made), is writable and has space.
    pub fn check(&self) -> Result<(), Reason> {
        create_private_folder(&self.folder)?;
        writable(&self.folder)?;
        match fs2::available_space(&self.folder) {
            Ok(free) if free < RESERVED as u64 => {
                Err(format!("the disk of the token folder {} is full", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// The file of a portal's limits, made if need be; `None` where it cannot be used.
    pub fn open_limits(&self, portal: &PortalName) -> Option<File> {
        let path = self.folder.join(format!("{}.limits", portal.file_stem()));
        open_or_create(&path).ok()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, portal: &PortalName) -> PathBuf {
        self.folder.join(portal.token_file())
    }

    fn lock_file(&self, portal: &PortalName) -> PathBuf {
        self.folder.join(format!("{}.lock", portal.file_stem()))
    }

    /// A token file is as secret as the configuration, unless its folder keeps everybody out.
    #[cfg(unix)]
    fn refuse_readable_by_others(&self, file: &File, path: &Path) -> Result<(), Reason> {
        use std::os::unix::fs::MetadataExt;
        let open = |metadata: std::io::Result<std::fs::Metadata>, bits: u32| {
            metadata.is_ok_and(|metadata| metadata.mode() & bits != 0)
        };
        if open(file.metadata(), 0o066) && open(self.folder.metadata(), 0o077) {
            return Err(format!(
                "{path} can be read or written by others than its owner: chmod 700 {} && chmod 600 {path}",
                typed(&self.folder),
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

fn parse(bytes: &[u8]) -> Result<Tokens, String> {
    if bytes.len() > RESERVED {
        return Err("it is too large".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // serde_json would read an array as a struct, and quotes values in its messages.
    if !text.trim_start().starts_with('{') {
        return Err(if text.trim().is_empty() { "it is empty".into() } else { "it is not a JSON object".into() });
    }
    let tokens: Tokens = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            let message = error.to_string();
            match message.strip_prefix("missing field ") {
                Some(rest) => format!("it has no {}", rest.split(' ').next().unwrap_or("")),
                None => format!("a value of the wrong type in line {} column {}", error.line(), error.column()),
            }
        }
        _ => format!("not JSON from line {} column {} on", error.line(), error.column()),
    })?;
    if tokens.access_token.is_empty() || tokens.refresh_token.is_empty() {
        return Err("a token in it is empty".into());
    }
    Ok(tokens)
}

fn read_notes(mut file: &File) -> Notes {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(RESERVED as u64).read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The exclusive lock of a portal; released when dropped, or when the process ends.
pub struct Lock {
    file: File,
    json: PathBuf,
    store: Store,
    portal: PortalName,
}

impl Lock {
    /// Ends what a killed writer began: a next pair that is whole takes its place (the old one may be spent), anything else
    /// is removed. Where it cannot take its place it stays, and nobody may write: it may be the only live pair.
    fn settle(&self) -> Result<(), Reason> {
        let path = self.json.with_extension("json.new");
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

    /// What is stored now. Whoever writes decides by this, not by what was read before the lock.
    pub fn read(&self) -> Result<Installation, Reason> {
        self.store.read(&self.portal)
    }

    /// Takes the space for the next pair, on disk, before the old one is spent.
    pub fn reserve(&self) -> Result<Reserved<'_>, Reason> {
        let path = self.json.with_extension("json.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private(&mut options);
        let file = options.open(&path).map_err(|e| explain(&e, "create", &path))?;
        let reserved = Reserved { file, path, keep: false, lock: self };
        (&reserved.file)
            .write_all(&[b' '; RESERVED])
            .and_then(|()| reserved.file.sync_all())
            .map_err(|e| explain(&e, "write", &reserved.path))?;
        Ok(reserved)
    }

    /// Moves the stored pair aside as `NAME.json.removed`.
    pub fn remove(&self) -> Result<(), Reason> {
        std::fs::rename(&self.json, self.json.with_extension("json.removed"))
            .map_err(|e| explain(&e, "rename", &self.json))
    }

    /// The notes kept in the lock file.
    pub fn notes(&self) -> Notes {
        read_notes(&self.file)
    }

    pub fn set_notes(&self, notes: &Notes) -> Result<(), Reason> {
        let bytes = serde_json::to_vec(notes).expect("plain data serializes");
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.set_len(bytes.len() as u64))
            .and_then(|()| file.sync_data())
            .map_err(|e| explain(&e, "write the lock file of", &self.json))
    }

    /// The open, locked file, to be handed to another process: the lock lives as long as either has it open.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Space on disk for the next pair. Dropped without a commit it leaves nothing behind.
pub struct Reserved<'l> {
    file: File,
    path: PathBuf,
    /// A pair was written here. Where it cannot take its place, [`Lock::settle`] decides what becomes of it.
    keep: bool,
    lock: &'l Lock,
}

impl Reserved<'_> {
    /// Replaces the stored pair: written into the space taken, synced, renamed over the old file, and the folder
    /// synced, so that after a power cut one of the two pairs is there, whole.
    pub fn commit(mut self, tokens: &Tokens) -> Result<(), Reason> {
        let bytes = serde_json::to_vec_pretty(tokens).expect("plain data serializes");
        self.keep = true;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(&bytes))
            .and_then(|()| file.set_len(bytes.len() as u64))
            .and_then(|()| file.sync_all())
            .map_err(|e| explain(&e, "write", &self.path))?;
        std::fs::rename(&self.path, &self.lock.json).map_err(|e| explain(&e, "replace", &self.lock.json))?;
        // Not every file system can sync a folder; the pair is in place either way.
        if let Ok(folder) = File::open(&self.lock.store.folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_killed_writer_left_is_ended_by_whoever_locks_next() {
        let (folder, store, portal) = temporary();
        store.try_lock(&portal).unwrap().unwrap().reserve().unwrap().commit(&tokens("one")).unwrap();
        let new = folder.join("tokens/crm.example.org_8443.json.new");
        std::fs::write(&new, serde_json::to_vec(&tokens("two")).unwrap()).unwrap();
        drop(store.try_lock(&portal).unwrap());
        let Ok(Installation::Installed(read)) = store.read(&portal) else { panic!() };
        assert_eq!(read.access_token.expose(), "two");
        std::fs::write(&new, b"{\"access_token\":   ").unwrap();
        drop(store.try_lock(&portal).unwrap());
        let Ok(Installation::Installed(read)) = store.read(&portal) else { panic!() };
        assert_eq!((read.access_token.expose(), new.exists()), ("two", false));
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn temporary() -> (PathBuf, Store, PortalName) {
        let folder = std::env::temp_dir().join(format!("b24proxy-store-{}", crate::values::secret::random_hex::<8>()));
        let store = Store::new(&folder.join("tokens"));
        (folder, store, PortalName::parse("crm.example.org:8443").unwrap())
    }

    fn tokens(access: &str) -> Tokens {
        serde_json::from_str(&format!(
            r#"{{"member_id":"m","client_endpoint":"https://crm.example.org:8443/rest/","access_token":"{access}",
               "refresh_token":"r","expires_at":1,"user_id":"7"}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_pair_is_written_under_the_lock_and_read_without() {
        let (folder, store, portal) = temporary();
        assert!(matches!(store.read(&portal), Ok(Installation::NotInstalled)));
        let lock = store.try_lock(&portal).unwrap().unwrap();
        assert!(store.try_lock(&portal).unwrap().is_none(), "held");
        lock.reserve().unwrap().commit(&tokens("one")).unwrap();
        let Ok(Installation::Installed(read)) = store.read(&portal) else { panic!() };
        assert_eq!((read.access_token.expose(), read.user_id), ("one", 7));
        drop(lock.reserve().unwrap());
        let names: Vec<_> = std::fs::read_dir(folder.join("tokens")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "only the pair and the lock are left: {names:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named_and_shows_no_secret() {
        let (folder, store, portal) = temporary();
        std::fs::create_dir_all(folder.join("tokens")).unwrap();
        let path = folder.join("tokens/crm.example.org_8443.json");
        for (text, word) in [
            ("", "empty"),
            ("[]", "object"),
            ("{\"access_token\":\"secret-value\"", "JSON"),
            ("{\"access_token\":\"secret-value\"}", "client_endpoint"),
            ("{\"access_token\":\"secret-value\",\"expires_at\":\"secret-value\"}", "type"),
        ] {
            std::fs::write(&path, text).unwrap();
            #[cfg(unix)]
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let Ok(Installation::Broken(why)) = store.read(&portal) else { panic!("{text}") };
            assert!(why.contains(word) && !why.contains("secret-value"), "{why}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_notes_in_the_lock_file_are_replaced_whole() {
        let (folder, store, portal) = temporary();
        let lock = store.try_lock(&portal).unwrap().unwrap();
        assert_eq!(lock.notes(), Notes::default());
        let long = Notes { attempts: vec![1_000_000; 6], refresh: None };
        lock.set_notes(&long).unwrap();
        let short = Notes { attempts: vec![4], refresh: None };
        lock.set_notes(&short).unwrap();
        assert_eq!(lock.notes(), short);
        assert_eq!(store.notes(&portal), short);
        std::fs::remove_dir_all(folder).unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
