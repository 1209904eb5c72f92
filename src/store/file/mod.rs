//! The token folder: the storage that needs nothing but a disk.
//!
//! ```text
//! tokens/acme.bitrix24.ru.json            the pair; read without a lock, always whole because it is replaced by rename
//! tokens/acme.bitrix24.ru.json.new        the next pair while it is being written; its space is taken before it is needed
//!                                         (whole when its writer is killed, whoever locks next puts it in place if it
//!                                         replaces exactly what is stored, as it says itself)
//! tokens/acme.bitrix24.ru.json.left       one that does not; kept for a person to look at
//! tokens/acme.bitrix24.ru.json.removed    a pair that was set aside
//! tokens/acme.bitrix24.ru.lock            flock by whoever writes; holds the notes; never unlinked
//! tokens/acme.bitrix24.ru.limits          the bucket and what calls have shown, under a lock of its own that is held for a
//!                                         read and a write; a hint
//! tokens/acme.bitrix24.ru.moved           where the portal has moved to ([`moving`])
//! tokens/acme.bitrix24.ru.gate            held by whoever has a key of the portal open ([`gate`])
//! tokens/events/acme.bitrix24.ru/          what Bitrix24 reported ([`events`])
//! tokens/idempotency/CLIENT/usage         how much this client keeps; locked for a moment at each change
//! tokens/idempotency/CLIENT/KEY.call      one key: a journal, locked by whoever has it open
//! ```
//!
//! CLIENT and KEY are hashes: of the client's name, and of portal and key. On NFS, `flock` works where the server supports
//! locks (Linux maps it to byte-range locks).

mod events;
mod folder;
mod gate;
mod idempotency;
pub mod in_place;
mod journal;
pub mod lock;
mod moving;
mod replace;
pub mod reserved;

use super::moving::{State, Still};
use super::records::{Installation, Notes};
use super::{client_name, Claim, Events, Lock, Store, Whereabouts, Wish, POLL};
use crate::system::clock::{unix_now_ms, Deadline};
use crate::system::disk::{
    create_private_folder, explain, is_contended, open_or_create, open_or_create_in_folder, open_to_read,
    refuse_writable_by_others, same_file, writable, Reason,
};
use crate::values::bucket::{Bucket, Known, Step, Told};
use crate::values::event::{Bounds, EventName};
use crate::values::portal::PortalName;
use events::{Appending, Mailbox};
pub use folder::{parse, Folder, RESERVED};
use fs2::FileExt;
use idempotency::Keys;
use lock::FileLock;
use std::fs::File;
use std::time::Duration;

impl Store for Folder {
    fn guarded(&self) -> Result<(), Reason> {
        refuse_writable_by_others(&self.path)
    }

    fn now_ms(&self) -> i64 {
        unix_now_ms()
    }

    fn read(&self, portal: &PortalName) -> Result<Installation, Reason> {
        self.pair_at_a_glance(portal)
    }

    fn notes(&self, portal: &PortalName) -> Notes {
        open_to_read(&self.lock_file(portal)).ok().and_then(|file| in_place::read(&file)).unwrap_or_default()
    }

    fn try_lock(&self, portal: &PortalName) -> Result<Option<Box<dyn Lock>>, Reason> {
        let Some(lock) = self.try_file_lock(portal)? else { return Ok(None) };
        lock.settle()?;
        Ok(Some(Box::new(lock)))
    }

    fn adopt_lock(&self, portal: &PortalName, passed_on: File) -> Result<Box<dyn Lock>, Reason> {
        let path = self.lock_file(portal);
        if !same_file(&passed_on, &path) {
            return Err(format!("what was handed over is not {}", path.display()));
        }
        FileExt::try_lock_exclusive(&passed_on).map_err(|e| explain(&e, "lock", &path))?;
        Ok(Box::new(FileLock::new(passed_on, self.clone(), portal.clone())))
    }

    fn poll(&self) -> Duration {
        POLL
    }

    fn grace(&self) -> Duration {
        Duration::ZERO
    }

    fn bucket(&self, portal: &PortalName, bucket: Bucket, step: Step) -> Option<Told> {
        let file = open_or_create(&self.of_portal(portal, "limits")).ok()?;
        file.lock_exclusive().ok()?;
        let mut known: Known = in_place::read(&file).filter(Known::is_sound).unwrap_or_default();
        // By the time of the lock, so that places are in its order.
        let told = known.step(bucket, step, unix_now_ms());
        in_place::write(&file, &known).ok()?;
        Some(told)
    }

    fn known(&self, portal: &PortalName) -> Known {
        let file = open_to_read(&self.of_portal(portal, "limits")).ok();
        // While somebody writes it is not whole.
        let file = file.filter(|file| FileExt::lock_shared(file).is_ok());
        file.and_then(|file| in_place::read(&file)).filter(Known::is_sound).unwrap_or_default()
    }

    fn claim(
        &self,
        client: &str,
        portal: &PortalName,
        key: &str,
        request: &str,
        until: Deadline,
    ) -> Result<Claim, Reason> {
        let Some(entered) = gate::enter(self, portal, until)? else { return Ok(Claim::Busy) };
        let folder = self.path.join("idempotency").join(client_name(client));
        Keys::new(folder, self.quota).claim(portal, key, request, until, entered)
    }

    fn take_event(&self, portal: &PortalName, name: &EventName, data: &str, bounds: &Bounds) -> Result<u64, Reason> {
        let mailbox = self.prepare_events(portal)?;
        let appending = Appending::lock(&mailbox)?;
        match self.mark(portal)? {
            Some(mark) => Err(mark.sentence(portal)),
            None => appending.take(name.as_str(), data, bounds),
        }
    }

    fn events(&self, portal: &PortalName, wish: &Wish, bounds: &Bounds) -> Result<Events, Reason> {
        match self.mark(portal)? {
            Some(mark) => Err(mark.sentence(portal)),
            None => Mailbox::new(self, portal).read(wish, bounds),
        }
    }

    fn last_event(&self, portal: &PortalName) -> Result<u64, Reason> {
        Mailbox::new(self, portal).last()
    }

    fn event_poll(&self) -> Duration {
        Duration::from_millis(250)
    }

    fn check(&self) -> Result<(), Reason> {
        self.guarded()?;
        create_private_folder(&self.path)?;
        writable(&self.path)?;
        match fs2::available_space(&self.path) {
            Ok(free) if free < RESERVED as u64 => {
                Err(format!("the disk of the token folder {} is full", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn place(&self, portal: &PortalName) -> Whereabouts {
        let path = self.tokens(portal);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Whereabouts { name, full: path.display().to_string(), set_aside: None }
    }

    fn name(&self) -> String {
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone()).display().to_string()
    }

    fn portals(&self) -> Result<Vec<PortalName>, Reason> {
        Ok(self.portals_in_it())
    }

    fn state(&self, portal: &PortalName) -> Result<State, Reason> {
        self.state_of(portal)
    }

    fn still(&self, portal: &PortalName, until: Deadline) -> Result<Option<Box<dyn Still + '_>>, Reason> {
        Ok(self.keep_still(portal, until)?.map(|still| Box::new(still) as Box<dyn Still + '_>))
    }
}

impl Folder {
    fn try_file_lock(&self, portal: &PortalName) -> Result<Option<FileLock>, Reason> {
        let path = self.lock_file(portal);
        let file = open_or_create_in_folder(&path)?;
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Some(FileLock::new(file, self.clone(), portal.clone()))),
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(explain(&error, "lock", &path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::LastRefresh;
    use super::super::test_suite::{portal, tokens, Temporary};
    use super::*;
    use crate::values::grant::Refusal;
    use std::path::PathBuf;

    fn temporary() -> (Temporary, Folder) {
        let place = Temporary::new();
        let folder = Folder::new(&place.path().join("tokens"));
        (place, folder)
    }

    fn stored(store: &Folder) -> String {
        let Ok(Installation::Installed(read)) = store.read(&portal()) else { panic!() };
        read.access_token.expose().to_owned()
    }

    /// A folder in which the pair "one" is stored, and the path of the next one.
    fn with_one_stored() -> (Temporary, Folder, PathBuf) {
        let (place, store) = temporary();
        let lock = store.try_lock(&portal()).unwrap().unwrap();
        let _ = lock.reserve().unwrap().replace(None, &tokens("one")).unwrap();
        drop(lock);
        let next = store.next_tokens(&portal());
        (place, store, next)
    }

    /// A pair as a killed writer leaves it.
    fn written(access: &str, replaces: Option<&str>) -> Vec<u8> {
        let mut pair = serde_json::to_value(tokens(access)).unwrap();
        if let Some(replaced) = replaces {
            pair["replaces"] = replaced.into();
        }
        serde_json::to_vec(&pair).unwrap()
    }

    /// What the next holder of the lock makes of it: the pair that is stored, and the one that was moved aside.
    fn settled(store: &Folder, left: &[u8]) -> (String, Option<String>) {
        let (next, aside) = (store.next_tokens(&portal()), store.left_over(&portal()));
        let _ = std::fs::remove_file(&aside);
        std::fs::write(&next, left).unwrap();
        drop(store.try_lock(&portal()).unwrap().unwrap());
        assert!(!next.exists());
        let aside = std::fs::read(aside).ok().map(|bytes| parse(&bytes).unwrap());
        (stored(store), aside.map(|tokens| tokens.access_token.expose().to_owned()))
    }

    #[test]
    fn what_a_killed_writer_left_is_put_in_place_where_it_replaces_exactly_what_is_stored() {
        let (_place, store, next) = with_one_stored();
        let one = tokens("one").fingerprint();
        assert_eq!(settled(&store, b"{\"access_token\":   "), ("one".into(), None), "half a pair");
        for of_another in [None, Some(""), Some("zero"), Some(tokens("two").fingerprint().as_str())] {
            let aside = Some("two".to_owned());
            assert_eq!(settled(&store, &written("two", of_another)), ("one".into(), aside), "{of_another:?}");
        }
        assert_eq!(settled(&store, &written("one", None)), ("one".into(), None), "the same pair");
        assert_eq!(settled(&store, &written("two", Some(&one))), ("two".into(), None));
        // Where none is stored, only what says so.
        for (left, is_stored) in [(None, false), (Some(one.as_str()), false), (Some(""), true)] {
            std::fs::remove_file(store.tokens(&portal())).unwrap();
            std::fs::write(&next, written("three", left)).unwrap();
            drop(store.try_lock(&portal()).unwrap().unwrap());
            assert_eq!(store.tokens(&portal()).exists(), is_stored, "{left:?}");
            std::fs::write(store.tokens(&portal()), written("one", None)).unwrap();
        }
    }

    #[test]
    fn of_version_0_1_the_note_of_a_refresh_that_was_begun_with_the_stored_pair_says_it() {
        let (_place, store, _) = with_one_stored();
        let note = |spent: &str, failure: Option<Refusal>| {
            let refresh = Some(LastRefresh { spent: tokens(spent).fingerprint(), at: 1, failure, interrupted: false });
            let lock = store.try_lock(&portal()).unwrap().unwrap();
            lock.write_notes(&Notes { refresh, ..Notes::default() }).unwrap();
        };
        let aside = || ("one".to_owned(), Some("two".to_owned()));
        assert_eq!(settled(&store, &written("two", None)), aside());
        note("zero", None);
        assert_eq!(settled(&store, &written("two", None)), aside());
        note("one", Some(Refusal::PortalDeleted));
        assert_eq!(settled(&store, &written("two", None)), aside(), "that one was refused");
        note("one", None);
        assert_eq!(settled(&store, &written("two", Some("zero"))), aside(), "what says another thing is not believed");
        assert_eq!(settled(&store, &written("two", None)), ("two".into(), None));
    }

    #[test]
    fn a_pair_that_could_not_take_its_place_takes_it_when_that_can_be_read_again() {
        let (_place, store, next) = with_one_stored();
        let path = store.tokens(&portal());
        let lock = store.try_lock(&portal()).unwrap().unwrap();
        let room = lock.reserve().unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"{").unwrap();
        room.replace(Some(&tokens("one").fingerprint()), &tokens("two")).unwrap_err();
        assert!(lock.reserve().is_err(), "it is not written over");
        drop(lock);
        drop(store.try_lock(&portal()).unwrap());
        assert!(next.exists(), "it waits");
        std::fs::write(&path, whole).unwrap();
        drop(store.try_lock(&portal()).unwrap());
        assert_eq!((stored(&store).as_str(), next.exists()), ("two", false));
    }

    #[test]
    fn a_process_that_stays_sees_each_other_pair_at_once() {
        let (_place, store, _) = with_one_stored();
        let store = store.keeping();
        let path = store.tokens(&portal());
        std::thread::sleep(std::time::Duration::from_millis(2100));
        for _ in 0..3 {
            assert_eq!(stored(&store), "one");
        }
        // By rename, in place within its size, and taken away.
        let lock = store.try_lock(&portal()).unwrap().unwrap();
        let _ = lock.reserve().unwrap().replace(Some(&tokens("one").fingerprint()), &tokens("two")).unwrap();
        assert_eq!(stored(&store), "two");
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(stored(&store), "two");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("two", "six")).unwrap();
        assert_eq!(stored(&store), "six");
        std::fs::write(&path, text.replace("two", "ten")).unwrap();
        assert_eq!(stored(&store), "ten");
        std::fs::remove_file(path).unwrap();
        assert!(matches!(store.read(&portal()), Ok(Installation::NotInstalled)));
    }

    #[test]
    fn only_the_pair_and_the_lock_are_left_in_the_folder() {
        let (place, store) = temporary();
        let lock = store.try_lock(&portal()).unwrap().unwrap();
        let _ = lock.reserve().unwrap().replace(None, &tokens("one")).unwrap();
        drop(lock.reserve().unwrap());
        let names: Vec<_> =
            std::fs::read_dir(place.path().join("tokens")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(store.strays([portal()].iter()), Vec::<String>::new());
        assert_eq!(store.strays([].iter()), ["crm.example.org_8443.json"]);
    }

    #[test]
    fn a_damaged_file_is_named_and_shows_no_secret() {
        let (place, store) = temporary();
        std::fs::create_dir_all(place.path().join("tokens")).unwrap();
        let path = place.path().join("tokens/crm.example.org_8443.json");
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
            let Ok(Installation::Broken(why)) = store.read(&portal()) else { panic!("{text}") };
            assert!(why.contains(word) && !why.contains("secret-value"), "{why}");
        }
    }
}
