//! Idempotency keys: a caller may repeat a call under the same key, and it is executed at most once.
//!
//! ```text
//! tokens/idempotency/CLIENT/usage       how much this client keeps; locked for a moment at each change
//! tokens/idempotency/CLIENT/KEY.call    one key: a journal, locked (flock) by whoever executes its call
//! ```
//!
//! CLIENT and KEY are hashes: of the client's name, and of portal and key. A journal is a line of JSON for each record,
//! followed by as many bytes of content as the line says. Records are only appended; an incomplete one does not count, and
//! is taken back where it could not be written whole: what is appended behind it would be read as its content.
//!
//! | journal | lock | meaning |
//! |---|---|---|
//! | absent or empty | free | nobody has called; the holder may |
//! | begun | held | the call is being executed |
//! | begun | free | its outcome is unknown: never executed again |
//! | begun, done | free | executed; the answer is kept and replayed |
//!
//! A request with many calls writes `sending` before each step and `results` behind it; the same request goes on behind the
//! last results, and calls that were being sent when the process ended have an unknown outcome.
//!
//! A definite error removes the journal, which frees the key. After 24 hours a journal counts as absent. There is no
//! daemon: a client's folder is swept when it is full, and once an hour by whoever comes first.

mod journal;

pub use journal::Kept;

use crate::call::results::Piece;
use crate::store::Store;
use crate::system::clock::{unix_now, Deadline};
use crate::system::disk::{explain, is_contended, open_or_create_in_folder, same_file, POLL};
use crate::values::error::{Error, Result};
use crate::values::portal::PortalName;
use crate::values::secret::{hex, sha256};
use fs2::FileExt;
use journal::{alive_since, append, read_journal, read_results, Journal, Outcome, Record, LIFETIME};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAX_KEYS: u64 = 1000;
const MAX_BYTES: u64 = 64 << 20;
const SWEEP_EVERY: i64 = 3600;
const LONGEST_KEY: usize = 255;

/// `Idempotency-Key`: 1 to 255 printable ASCII characters.
pub fn check_key(value: &[u8]) -> Result<&str> {
    let printable = value.iter().all(|b| (0x20..=0x7e).contains(b));
    match std::str::from_utf8(value) {
        Ok(text) if printable && (1..=LONGEST_KEY).contains(&value.len()) => Ok(text),
        _ => {
            Err(Error::InvalidRequest(format!("Idempotency-Key must be 1 to {LONGEST_KEY} printable ASCII characters")))
        }
    }
}

/// What a request is, for telling whether two are the same: the hash of its parts, their lengths included.
pub fn fingerprint(parts: &[&[u8]]) -> String {
    let mut all = Vec::new();
    for part in parts {
        all.extend((part.len() as u64).to_le_bytes());
        all.extend(sha256(part));
    }
    hex(&sha256(&all)[..16])
}

/// What a key's journal says, once its lock is ours.
pub enum State<'a> {
    /// Nobody has executed this call; the holder may.
    Free(Held<'a>),
    /// Executed before: the kept answer.
    Done(Kept),
}

/// A key whose lock is held by this process. Dropped once the call was begun, whatever the reason, its outcome is unknown.
pub struct Held<'a> {
    keys: &'a Keys,
    path: PathBuf,
    file: File,
    fingerprint: String,
    begun: bool,
}

/// The keys of one client.
pub struct Keys {
    folder: PathBuf,
    max_keys: u64,
    max_bytes: u64,
}

impl Keys {
    pub fn of(store: &Store, client: &str) -> Keys {
        let folder = store.folder().join("idempotency").join(&hex(&sha256(client.as_bytes()))[..16]);
        Keys { folder, max_keys: MAX_KEYS, max_bytes: MAX_BYTES }
    }

    /// Waits for the key's lock, at most until the deadline, and reads its journal.
    pub fn claim(&self, portal: &PortalName, key: &str, fingerprint: String, deadline: Deadline) -> Result<State<'_>> {
        match self.held(portal, key, fingerprint, deadline)? {
            (held, None) => Ok(State::Free(held)),
            (_, Some(Outcome::Kept(kept))) => Ok(State::Done(kept)),
            (_, Some(Outcome::Unknown)) => Err(Error::OutcomeUnknown { too_large: false }),
            (_, Some(Outcome::TooLarge)) => Err(Error::OutcomeUnknown { too_large: true }),
        }
    }

    /// The same for a request with so many calls: what it has done so far, to go on behind it.
    pub fn claim_many(
        &self,
        portal: &PortalName,
        key: &str,
        fingerprint: String,
        calls: usize,
        deadline: Deadline,
    ) -> Result<Journaled<'_>> {
        let (mut held, outcome) = self.held(portal, key, fingerprint, deadline)?;
        let mut kept = Piece::default();
        if outcome.is_some() {
            let end;
            (kept, end) = read_results(&mut held.file, calls).map_err(|e| storage(&e, "read", &held.path))?;
            // What was cut off in writing would make everything behind it unreadable.
            held.file.set_len(end).map_err(|e| storage(&e, "write", &held.path))?;
        }
        Ok(Journaled { held, kept, sending: false })
    }

    /// The key, once its lock is ours, and what became of its call; `None`: nobody has called.
    fn held(
        &self,
        portal: &PortalName,
        key: &str,
        fingerprint: String,
        deadline: Deadline,
    ) -> Result<(Held<'_>, Option<Outcome>)> {
        let path = self.path(portal, key);
        let mut file = self.locked(&path, deadline)?;
        let outcome = match read_journal(&mut file).map_err(|e| storage(&e, "read", &path))? {
            // Half a record, of a machine that lost its power, would spoil what is appended to it.
            Journal::Empty => {
                file.set_len(0).map_err(|e| storage(&e, "write", &path))?;
                None
            }
            Journal::Expired => {
                self.empty(&file, &path)?;
                None
            }
            Journal::Begun { fingerprint: known, .. } if known != fingerprint => {
                return Err(Error::IdempotencyKeyReused)
            }
            Journal::Begun { outcome, .. } => Some(outcome),
        };
        Ok((Held { keys: self, path, file, fingerprint, begun: outcome.is_some() }, outcome))
    }

    fn path(&self, portal: &PortalName, key: &str) -> PathBuf {
        let name = &hex(&sha256(format!("{portal}\n{key}").as_bytes()))[..40];
        self.folder.join(format!("{name}.call"))
    }

    /// The locked file that stands at `path` now: one that was removed while we waited for its lock does not count.
    fn locked(&self, path: &Path, deadline: Deadline) -> Result<File> {
        loop {
            let file = open_or_create_in_folder(path).map_err(Error::Storage)?;
            match FileExt::try_lock_exclusive(&file) {
                Ok(()) if same_file(&file, path) => return Ok(file),
                Ok(()) => continue,
                Err(error) if is_contended(&error) => {}
                Err(error) => return Err(storage(&error, "lock", path)),
            }
            if deadline.has_passed() {
                return Err(Error::KeyInUse { retry_after: 2 });
            }
            std::thread::sleep(POLL.min(deadline.remaining()));
        }
    }

    /// An expired journal begins anew; what it took is given back.
    fn empty(&self, file: &File, path: &Path) -> Result<()> {
        let bytes = file.metadata().map_or(0, |m| m.len());
        file.set_len(0).map_err(|e| storage(&e, "write", path))?;
        self.change_usage(|usage| usage.give_back(bytes))
    }

    /// Takes one place among the client's keys, or says when one will be free.
    fn take_place(&self) -> Result<()> {
        let (full, oldest) = self.change_usage(|usage| {
            let now = unix_now();
            let full = |usage: &Usage| usage.keys >= self.max_keys || usage.bytes >= self.max_bytes;
            let mut oldest = now;
            if full(usage) || (now - usage.swept_at).abs() >= SWEEP_EVERY {
                (*usage, oldest) = self.sweep(now);
            }
            let full = full(usage);
            usage.keys += u64::from(!full);
            (full, oldest)
        })?;
        if full {
            let retry_after = u64::try_from(oldest + LIFETIME - unix_now()).unwrap_or(0).clamp(1, LIFETIME as u64);
            return Err(Error::RateLimited {
                why: format!(
                    "This client keeps as many idempotency keys as it may ({MAX_KEYS}, or 64 MiB of answers in 24 hours). The \
                     call was not executed."
                ),
                retry_after,
            });
        }
        Ok(())
    }

    fn change_usage<T>(&self, change: impl FnOnce(&mut Usage) -> T) -> Result<T> {
        let path = self.folder.join("usage");
        let mut file = open_or_create_in_folder(&path).map_err(Error::Storage)?;
        let failed = |error: std::io::Error| storage(&error, "write", &path);
        file.lock_exclusive().map_err(failed)?;
        let mut text = String::new();
        let known = (&file).take(4096).read_to_string(&mut text).ok().and_then(|_| serde_json::from_str(&text).ok());
        let mut usage = known.unwrap_or_else(|| self.sweep(unix_now()).0);
        let result = change(&mut usage);
        let bytes = format!("{:<128}", serde_json::to_string(&usage).expect("plain data serializes"));
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes.as_bytes())).map_err(failed)?;
        Ok(result)
    }

    /// Removes what has expired and counts the rest; with the time of the oldest.
    fn sweep(&self, now: i64) -> (Usage, i64) {
        let mut usage = Usage { keys: 0, bytes: 0, swept_at: now };
        let mut oldest = now;
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "call") {
                continue;
            }
            let Ok(mut file) = File::open(&path) else { continue };
            match alive_since(&mut file, now) {
                Some(at) => {
                    usage.keys += 1;
                    usage.bytes += file.metadata().map_or(0, |m| m.len());
                    oldest = oldest.min(at);
                }
                // Whoever holds it at this moment may be about to use it: read again under the lock. And its holder may
                // have removed it, so that another's stands at its path.
                None if FileExt::try_lock_exclusive(&file).is_ok()
                    && same_file(&file, &path)
                    && alive_since(&mut file, now).is_none() =>
                {
                    let _ = std::fs::remove_file(&path);
                }
                None => {}
            }
        }
        (usage, oldest)
    }
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

impl Held<'_> {
    /// Writes down, on disk, that the call is about to be sent. Once; later sends of the same call change nothing.
    pub fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        self.keys.take_place()?;
        self.begun = true;
        let record = Record::Begun { fingerprint: self.fingerprint.clone(), at: unix_now() };
        self.append(&record, b"")
    }

    /// The call was executed: its answer is kept, if there is room. The answer goes to the caller in any case.
    pub fn done(mut self, status: u16, content_type: &str, body: &[u8]) -> Result<()> {
        let length = self.take_room(body.len() as u64)?;
        let record = Record::Done { status, content_type: content_type.to_owned(), length };
        self.append(&record, if length.is_some() { body } else { b"" })
    }

    /// `size`, if there is room for so many more bytes.
    fn take_room(&self, size: u64) -> Result<Option<u64>> {
        self.keys.change_usage(|usage| {
            let room = usage.bytes.saturating_add(size) <= self.keys.max_bytes;
            usage.bytes += if room { size } else { 0 };
            room.then_some(size)
        })
    }

    fn append(&mut self, record: &Record, content: &[u8]) -> Result<()> {
        append(&mut self.file, record, content).map_err(|error| storage(&error, "write", &self.path))
    }

    /// The call was not executed, or ended with a definite error: the key is free again.
    pub fn free(mut self) {
        if std::mem::take(&mut self.begun) {
            let _ = self.keys.change_usage(|usage| usage.give_back(0));
        }
    }
}

impl Drop for Held<'_> {
    /// A journal that has no record, or none that counts, leaves no file behind.
    fn drop(&mut self) {
        if !self.begun {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A key whose request has many calls.
pub struct Journaled<'a> {
    held: Held<'a>,
    kept: Piece,
    /// It was written down that calls are about to be sent, and nothing yet of what became of them.
    sending: bool,
}

impl Journaled<'_> {
    /// The results of the calls that are done.
    pub fn take_kept(&mut self) -> Piece {
        std::mem::take(&mut self.kept)
    }

    /// The next so many calls are about to be sent.
    pub fn sending(&mut self, calls: usize) -> Result<()> {
        self.held.begin()?;
        self.held.append(&Record::Sending { calls }, b"")?;
        self.sending = true;
        Ok(())
    }

    /// They were not. Where that they would be could not be written down, there is nothing to take back.
    pub fn not_sent(&mut self) -> Result<()> {
        match std::mem::take(&mut self.sending) {
            true => self.held.append(&Record::NotSent, b""),
            false => Ok(()),
        }
    }

    /// Nothing of the request was executed: the key is free again.
    pub fn free(self) {
        self.held.free();
    }

    /// They ended with these results. Where those cannot be kept, no more may be sent.
    pub fn finished(&mut self, piece: &Piece) -> Result<()> {
        self.sending = false;
        let length = self.held.take_room(piece.text.len() as u64)?;
        let Piece { calls, errors, halted, .. } = *piece;
        let content = if length.is_some() { piece.text.as_slice() } else { b"" };
        self.held.append(&Record::Results { calls, errors, halted, length }, content)
    }
}

fn storage(error: &std::io::Error, operation: &str, path: &Path) -> Error {
    Error::Storage(explain(error, operation, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> (Folder, Keys) {
            let path = std::env::temp_dir().join(format!("b24proxy-keys-{}", crate::values::secret::random_hex::<8>()));
            let keys = Keys { max_keys: 3, max_bytes: 100, ..Keys::of(&Store::new(&path), "client") };
            (Folder(path), keys)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn claim<'a>(keys: &'a Keys, key: &str, what: &str) -> Result<State<'a>> {
        let portal = PortalName::parse("acme.bitrix24.ru").unwrap();
        keys.claim(&portal, key, what.to_owned(), Deadline::after(Duration::from_millis(30)))
    }

    fn free<'a>(keys: &'a Keys, key: &str) -> Held<'a> {
        match claim(keys, key, "what") {
            Ok(State::Free(held)) => held,
            Ok(State::Done(_)) => panic!("done"),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn many<'a>(keys: &'a Keys, key: &str) -> Journaled<'a> {
        let portal = PortalName::parse("acme.bitrix24.ru").unwrap();
        keys.claim_many(&portal, key, "what".to_owned(), 10, Deadline::after(Duration::from_millis(30))).unwrap()
    }

    fn one_result() -> Piece {
        Piece { text: b"{}".to_vec(), calls: 1, errors: 0, halted: false }
    }

    #[test]
    fn calls_that_were_being_sent_stay_unknown_whatever_follows() {
        let (_folder, keys) = Folder::new();
        let mut journal = many(&keys, "k");
        journal.sending(2).unwrap();
        // As it stands when the process is killed.
        let (path, bytes) = (journal.held.path.clone(), std::fs::read(&journal.held.path).unwrap());
        drop(journal);
        std::fs::write(path, bytes).unwrap();
        for known in [2, 3, 4] {
            let mut journal = many(&keys, "k");
            assert_eq!(journal.take_kept().calls, known);
            journal.sending(1).unwrap();
            journal.finished(&one_result()).unwrap();
        }
    }

    #[test]
    fn a_journal_of_many_calls_cut_anywhere_never_repeats_one() {
        let (_folder, keys) = Folder::new();
        let mut journal = many(&keys, "k");
        journal.sending(1).unwrap();
        let path = journal.held.path.clone();
        let sent = std::fs::metadata(&path).unwrap().len();
        journal.finished(&one_result()).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for length in usize::try_from(sent).unwrap()..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut journal = many(&keys, "k");
            assert_eq!(journal.take_kept().calls, 1, "{length}");
            journal.sending(1).unwrap();
            journal.finished(&one_result()).unwrap();
            drop(journal);
            assert_eq!(many(&keys, "k").take_kept().calls, 2, "{length}");
        }
    }

    fn kept(body: &str) -> Kept {
        Kept { status: 200, content_type: "application/json".into(), body: body.as_bytes().to_vec() }
    }

    fn done(held: Held, body: &str) -> Result<()> {
        held.done(200, "application/json", body.as_bytes())
    }

    #[test]
    fn an_answer_is_replayed_and_another_request_refused() {
        let (_folder, keys) = Folder::new();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        assert!(matches!(claim(&keys, "k", "what"), Err(Error::KeyInUse { .. })), "held");
        done(held, "{}").unwrap();
        assert!(matches!(claim(&keys, "k", "what"), Ok(State::Done(answer)) if answer == kept("{}")));
        assert!(matches!(claim(&keys, "k", "other"), Err(Error::IdempotencyKeyReused)));
        free(&keys, "another key");
    }

    #[test]
    fn an_unknown_outcome_is_never_executed_again_and_a_definite_error_frees_the_key() {
        let (_folder, keys) = Folder::new();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        drop(held);
        assert!(matches!(claim(&keys, "k", "what"), Err(Error::OutcomeUnknown { .. })));
        let mut held = free(&keys, "l");
        held.begin().unwrap();
        held.free();
        free(&keys, "l");
    }

    #[test]
    fn keys_are_bounded_and_a_full_client_is_refused_before_sending() {
        let (_folder, keys) = Folder::new();
        for key in ["a", "b", "c"] {
            let mut held = free(&keys, key);
            held.begin().unwrap();
            done(held, "{}").unwrap();
        }
        assert!(matches!(free(&keys, "d").begin(), Err(Error::RateLimited { .. })));
        assert!(matches!(claim(&keys, "a", "what"), Ok(State::Done(_))), "the others still answer");
    }

    #[test]
    fn an_answer_that_finds_no_room_is_known_to_be_executed() {
        let (_folder, keys) = Folder::new();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        done(held, &"x".repeat(101)).unwrap();
        assert!(matches!(claim(&keys, "k", "what"), Err(Error::OutcomeUnknown { too_large: true })));
    }

    #[test]
    fn a_journal_cut_anywhere_never_frees_the_key_once_it_was_begun() {
        let (_folder, keys) = Folder::new();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        let path = held.path.clone();
        let begun = std::fs::metadata(&path).unwrap().len();
        done(held, "{\"result\":1}").unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..20]).unwrap();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        drop(held);
        assert!(matches!(claim(&keys, "k", "what"), Err(Error::OutcomeUnknown { .. })), "cut before anything was sent");
        for length in usize::try_from(begun).unwrap()..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(claim(&keys, "k", "what"), Err(Error::OutcomeUnknown { .. })), "{length}");
        }
    }

    #[test]
    fn a_begun_record_cut_anywhere_does_not_hide_the_one_that_follows() {
        let (_folder, keys) = Folder::new();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        let path = held.path.clone();
        let whole = std::fs::read(&path).unwrap();
        held.free();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut held = free(&keys, "k");
            held.begin().unwrap();
            drop(held);
            assert!(matches!(claim(&keys, "k", "what"), Err(Error::OutcomeUnknown { .. })), "{length}");
            std::fs::remove_file(keys.folder.join("usage")).unwrap();
        }
    }

    #[test]
    fn after_a_day_a_key_is_free_again() {
        let (_folder, keys) = Folder::new();
        let mut held = free(&keys, "k");
        held.begin().unwrap();
        let path = held.path.clone();
        drop(held);
        let old = format!("{{\"record\":\"begun\",\"fingerprint\":\"what\",\"at\":{}}}\n", unix_now() - LIFETIME);
        std::fs::write(&path, old).unwrap();
        free(&keys, "k");
    }

    #[test]
    fn a_key_is_1_to_255_printable_ascii_characters() {
        assert!(check_key(b"a b~").is_ok());
        assert!(check_key(&[b'a'; 255]).is_ok());
        for bad in [&b""[..], &[b'a'; 256], b"a\tb", "ключ".as_bytes()] {
            assert!(check_key(bad).is_err());
        }
    }
}
