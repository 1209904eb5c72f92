//! A client's idempotency keys: a folder with a journal for each, and a record of how much the client keeps.
//!
//! Whoever has a key open holds its journal's `flock`. There is no daemon: a client's folder is swept when it is full, and
//! once an hour by whoever comes first.

use super::gate::Entered;
use super::{in_place, journal};
use crate::store::key_name;
use crate::store::moving::KeptKey;
use crate::store::records::Entry;
use crate::store::{Appended, Claim, Journal, Quota, KEY_LIFETIME, POLL};
use crate::system::clock::{unix_now, Deadline};
use crate::system::disk::{
    explain, is_contended, open_or_create_in_folder, open_to_read, put_in_place, same_file, Reason,
};
use crate::system::wait::pause;
use crate::values::portal::PortalName;
use fs2::FileExt;
use journal::Found;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const SWEEP_EVERY: u64 = 3600;

/// The keys of one client.
#[derive(Clone)]
pub struct Keys {
    folder: PathBuf,
    quota: Quota,
}

/// What a client keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Usage {
    keys: u64,
    bytes: u64,
    swept_at: i64,
}

impl Usage {
    fn give_back(&mut self, bytes: u64) {
        self.keys = self.keys.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Keys {
    pub fn new(folder: PathBuf, quota: Quota) -> Keys {
        Keys { folder, quota }
    }

    /// `entered`: held for as long as the key is open.
    pub fn claim(
        &self,
        portal: &PortalName,
        key: &str,
        request: &str,
        until: Deadline,
        entered: Entered,
    ) -> Result<Claim, Reason> {
        let path = self.path(portal, key);
        let Some(mut file) = self.locked(&path, until)? else { return Ok(Claim::Busy) };
        let (found, end) = journal::read(&mut file, request, unix_now()).map_err(|e| explain(&e, "read", &path))?;
        let entries = match found {
            Found::OtherRequest => return Ok(Claim::OtherRequest),
            Found::Nothing => Vec::new(),
            Found::Expired => {
                let bytes = file.metadata().map_or(0, |metadata| metadata.len());
                self.change_usage(|usage| usage.give_back(bytes))?;
                Vec::new()
            }
            Found::Entries(entries) => entries,
        };
        // What was cut off in writing would make everything behind it unreadable.
        if file.metadata().map_or(true, |metadata| metadata.len() != end) {
            file.set_len(end).map_err(|e| explain(&e, "write", &path))?;
        }
        let begun = !entries.is_empty();
        let (keys, portal, request) = (self.clone(), portal.clone(), request.to_owned());
        let open = OpenKey { keys, path, file, portal, request, begun, _entered: entered };
        Ok(Claim::Opened(Box::new(open), entries))
    }

    fn path(&self, portal: &PortalName, key: &str) -> PathBuf {
        self.folder.join(format!("{}.call", key_name(portal, key)))
    }

    /// The keys of this portal, and those that do not say of which they are.
    pub fn of_portal(&self, portal: &PortalName) -> Vec<(PathBuf, File)> {
        let of_it = |(_, file): &mut (PathBuf, File)| {
            journal::portal_of(file, unix_now()).is_some_and(|said| said.is_empty() || said == portal.as_str())
        };
        self.journals().filter_map(|mut journal| of_it(&mut journal).then_some(journal)).collect()
    }

    /// Those that can be read.
    fn journals(&self) -> impl Iterator<Item = (PathBuf, File)> {
        let paths = std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let journals = paths.filter(|path| path.extension().is_some_and(|extension| extension == "call"));
        journals.filter_map(|path| open_to_read(&path).ok().map(|file| (path, file)))
    }

    /// Writes a key that was kept elsewhere, whole, on disk when it returns.
    pub fn put(&self, key: &KeptKey) -> Result<(), Reason> {
        let (path, new) = (self.folder.join(format!("{}.call", key.key)), self.folder.join(format!("{}.new", key.key)));
        if key.portal.is_empty() && path.exists() {
            return Ok(());
        }
        let origin = journal::Origin { request: &key.request, portal: &key.portal };
        put_in_place(&new, &path, |file| {
            for entry in &key.entries {
                file.write_all(&journal::line(entry, &origin, key.begun_at.div_euclid(1000), true))?;
                file.write_all(entry.body().unwrap_or_default())?;
            }
            Ok(())
        })
    }

    /// After keys were put or taken away; what was renamed is so after a power cut.
    pub fn count_again(&self) -> Result<(), Reason> {
        self.change_usage(|usage| *usage = self.sweep(unix_now()).0)?;
        if let Ok(folder) = File::open(&self.folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// The locked file that stands at `path` now: one that was removed while we waited for its lock does not count.
    fn locked(&self, path: &Path, until: Deadline) -> Result<Option<File>, Reason> {
        loop {
            let file = open_or_create_in_folder(path)?;
            match FileExt::try_lock_exclusive(&file) {
                Ok(()) if same_file(&file, path) => return Ok(Some(file)),
                Ok(()) => continue,
                Err(error) if is_contended(&error) => {}
                Err(error) => return Err(explain(&error, "lock", path)),
            }
            if until.has_passed() {
                return Ok(None);
            }
            pause(POLL.min(until.remaining()))?;
        }
    }

    /// Takes one place among the client's keys; `Some`: there is none, and one will be free in so many seconds.
    fn take_place(&self) -> Result<Option<u64>, Reason> {
        self.change_usage(|usage| {
            let now = unix_now();
            let full = |usage: &Usage| usage.keys >= self.quota.keys || usage.bytes >= self.quota.bytes;
            let mut oldest = now;
            if full(usage) || now.abs_diff(usage.swept_at) >= SWEEP_EVERY {
                (*usage, oldest) = self.sweep(now);
            }
            if full(usage) {
                let until = oldest.saturating_add(KEY_LIFETIME).saturating_sub(now);
                return Some(u64::try_from(until).unwrap_or(0).clamp(1, KEY_LIFETIME as u64));
            }
            usage.keys += 1;
            None
        })
    }

    /// Whether there is room for so many more bytes; it is taken.
    fn take_room(&self, bytes: u64) -> Result<bool, Reason> {
        self.change_usage(|usage| {
            let is_room = usage.bytes.saturating_add(bytes) <= self.quota.bytes;
            usage.bytes += if is_room { bytes } else { 0 };
            is_room
        })
    }

    fn change_usage<T>(&self, change: impl FnOnce(&mut Usage) -> T) -> Result<T, Reason> {
        let path = self.folder.join("usage");
        let file = open_or_create_in_folder(&path)?;
        file.lock_exclusive().map_err(|e| explain(&e, "lock", &path))?;
        let mut usage = in_place::read(&file).unwrap_or_else(|| self.sweep(unix_now()).0);
        let result = change(&mut usage);
        in_place::write(&file, &usage).map_err(|e| explain(&e, "write", &path))?;
        Ok(result)
    }

    /// Removes what has expired and counts the rest; with the time of the oldest.
    fn sweep(&self, now: i64) -> (Usage, i64) {
        let mut usage = Usage { keys: 0, bytes: 0, swept_at: now };
        let mut oldest = now;
        for (path, mut file) in self.journals() {
            match journal::alive_since(&mut file, now) {
                Some(at) => {
                    usage.keys += 1;
                    usage.bytes += file.metadata().map_or(0, |m| m.len());
                    oldest = oldest.min(at);
                }
                // Whoever holds it at this moment may be about to use it: read again under the lock. And its holder may
                // have removed it, so that another's stands at its path.
                None if FileExt::try_lock_exclusive(&file).is_ok()
                    && same_file(&file, &path)
                    && journal::alive_since(&mut file, now).is_none() =>
                {
                    let _ = std::fs::remove_file(&path);
                }
                None => {}
            }
        }
        (usage, oldest)
    }
}

/// A key whose journal is locked by this process.
struct OpenKey {
    keys: Keys,
    path: PathBuf,
    file: File,
    portal: PortalName,
    request: String,
    /// An entry is there.
    begun: bool,
    _entered: Entered,
}

impl Journal for OpenKey {
    fn append(&mut self, entry: &Entry) -> Result<Appended, Reason> {
        if !self.begun {
            if let Some(retry_after) = self.keys.take_place()? {
                return Ok(Appended::Full { retry_after });
            }
            self.begun = true;
        }
        let with_body = match entry.body() {
            Some(body) => self.keys.take_room(body.len() as u64)?,
            None => true,
        };
        let origin = journal::Origin { request: &self.request, portal: self.portal.as_str() };
        journal::append(&mut self.file, entry, &origin, unix_now(), with_body)
            .map_err(|e| explain(&e, "write", &self.path))?;
        Ok(if with_body { Appended::Kept } else { Appended::WithoutBody })
    }

    fn forget(mut self: Box<Self>) {
        if std::mem::take(&mut self.begun) {
            let _ = self.keys.change_usage(|usage| usage.give_back(0));
        }
    }

    fn last_will(&self) -> Box<dyn FnOnce()> {
        let path = self.path.clone();
        Box::new(move || drop(std::fs::remove_file(path)))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for OpenKey {
    /// A journal without an entry leaves no file behind.
    fn drop(&mut self) {
        if !self.begun {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::Folder;
    use crate::store::test_suite::{portal, Temporary};
    use crate::store::QUOTA;
    use std::time::Duration;

    fn temporary() -> (Temporary, Keys) {
        let place = Temporary::new();
        let keys = Keys::new(place.path().to_owned(), QUOTA);
        (place, keys)
    }

    fn opened(keys: &Keys) -> (Box<dyn Journal>, Vec<Entry<'static>>) {
        let until = Deadline::after(Duration::from_millis(30));
        let entered = super::super::gate::enter(&Folder::new(&keys.folder), &portal(), until).unwrap().unwrap();
        match keys.claim(&portal(), "k", "what", until, entered) {
            Ok(Claim::Opened(journal, entries)) => (journal, entries),
            Ok(Claim::Busy | Claim::OtherRequest) => panic!("not opened"),
            Err(why) => panic!("{why}"),
        }
    }

    /// The journal's bytes after each of these entries.
    fn written(keys: &Keys, entries: &[Entry]) -> (PathBuf, Vec<Vec<u8>>) {
        let path = keys.path(&portal(), "k");
        let (mut journal, _) = opened(keys);
        let mut append = |entry: &Entry| {
            journal.append(entry).unwrap();
            std::fs::read(&path).unwrap()
        };
        let bytes = entries.iter().map(&mut append).collect();
        (path, bytes)
    }

    fn results(text: &'static [u8]) -> Entry<'static> {
        Entry::Results { calls: 1, errors: 0, halted: false, pending: vec![], body: Some(text.into()) }
    }

    #[test]
    fn a_journal_cut_anywhere_says_what_was_written_whole_and_takes_what_follows() {
        let (_place, keys) = temporary();
        let entries = [
            Entry::Begun,
            Entry::Sending { calls: 1, held: vec![] },
            results(b"{\"a\":1}"),
            Entry::Sending { calls: 2, held: vec![] },
        ];
        let (path, after) = written(&keys, &entries);
        let whole = after.last().unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let said = after.iter().filter(|bytes| bytes.len() <= length).count();
            let (mut journal, found) = opened(&keys);
            assert_eq!(found, entries[..said], "{length}");
            let next = if said == 0 { Entry::Begun } else { results(b"{}") };
            journal.append(&next).unwrap();
            drop(journal);
            let (journal, found) = opened(&keys);
            assert_eq!((found.len(), found.last()), (said + 1, Some(&next)), "{length}");
            drop(journal);
            std::fs::remove_file(keys.folder.join("usage")).unwrap();
        }
    }

    #[test]
    fn after_a_day_a_key_is_free_again() {
        let (_place, keys) = temporary();
        let (path, _) = written(&keys, &[Entry::Begun]);
        let begun = |age| format!("{{\"record\":\"begun\",\"fingerprint\":\"what\",\"at\":{}}}\n", unix_now() - age);
        std::fs::write(&path, begun(KEY_LIFETIME - 5)).unwrap();
        assert_eq!(opened(&keys).1, [Entry::Begun]);
        std::fs::write(&path, begun(KEY_LIFETIME)).unwrap();
        assert_eq!(opened(&keys).1, []);
    }

    #[test]
    fn journals_of_version_0_1_are_read() {
        let (_place, keys) = temporary();
        let (path, _) = written(&keys, &[Entry::Begun]);
        let at = unix_now() - 60;
        let begun = format!("{{\"record\":\"begun\",\"fingerprint\":\"what\",\"at\":{at}}}\n");
        let done = "{\"record\":\"done\",\"status\":200,\"content_type\":\"a/b\",\"length\":2}\n{}";
        std::fs::write(&path, format!("{begun}{done}")).unwrap();
        let body = Some(b"{}".as_slice().into());
        let expected = Entry::Done { status: 200, content_type: "a/b".into(), body };
        assert_eq!(opened(&keys).1, [Entry::Begun, expected]);
        let rest =
            "{\"record\":\"sending\",\"calls\":2}\n{\"record\":\"not_sent\"}\n{\"record\":\"results\",\"calls\":1,\
                    \"errors\":0,\"halted\":false,\"length\":null}\n";
        std::fs::write(&path, format!("{begun}{rest}")).unwrap();
        let none = Entry::Results { calls: 1, errors: 0, halted: false, pending: vec![], body: None };
        assert_eq!(opened(&keys).1, [Entry::Begun, Entry::Sending { calls: 2, held: vec![] }, Entry::NotSent, none]);
    }
}
