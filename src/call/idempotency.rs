//! Idempotency keys: a caller may repeat a call under the same key, and it is executed at most once.
//!
//! | entries | the key is | meaning |
//! |---|---|---|
//! | none | open | nobody has called; the holder may |
//! | begun | held by another | the call is being executed |
//! | begun | open | its outcome is unknown: never executed again |
//! | begun, done | open | executed; the answer is kept and replayed |
//!
//! A request with many calls writes `sending` before each step and `results` behind it; the same request goes on behind the
//! last results, and calls that were being sent when the process ended have an unknown outcome. A definite error frees the
//! key.

use super::outcome::Failed;
use super::results::Piece;
use super::secrets;
use crate::app::Job;
use crate::config::Portal;
use crate::store::records::Entry;
use crate::store::{Appended, Claim, Journal, QUOTA};
use crate::system::clock::Deadline;
use crate::upstream::http::Reply;
use crate::values::error::{Error, Executed, Result};
use crate::values::secret::{hex, sha256};
use std::borrow::Cow;
use std::cell::RefCell;

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

/// A key, as a client sends it with a request.
#[derive(Clone)]
pub struct Key<'k> {
    /// Whose it is.
    pub client: &'k str,
    pub text: &'k str,
    /// What the request is: its [`fingerprint`].
    pub request: String,
}

/// Executes a call once for its key; without a key, simply. `until`: how long to wait for another who executes it.
pub fn once(
    job: Job,
    portal: &Portal,
    key: Option<&Key>,
    until: Deadline,
    execute: impl FnOnce(Option<&mut Held>) -> std::result::Result<Reply, Failed>,
) -> std::result::Result<Reply, Failed> {
    let Some(key) = key else { return execute(None) };
    let (mut held, entries) = open(job, portal, key, until)?;
    if held.begun {
        return match kept_answer(entries) {
            // It may have been kept by a version that hid less.
            Some(answer) => answer.map(|reply| reply.without(&secrets::of_portal(job.app, portal))),
            None => Err(Error::OutcomeUnknown { too_large: false }.into()),
        };
    }
    let result = execute(Some(&mut held));
    held.end(job, &result);
    result
}

/// The answer in a key's entries; `None`: nothing is known of it.
fn kept_answer(entries: Vec<Entry>) -> Option<std::result::Result<Reply, Failed>> {
    match entries.into_iter().nth(1)? {
        Entry::Done { status, content_type, body: Some(body) } => {
            Some(Ok(Reply::replayed(status, content_type, body.into_owned())))
        }
        Entry::Done { body: None, .. } => Some(Err(Error::OutcomeUnknown { too_large: true }.into())),
        _ => None,
    }
}

fn open(job: Job, portal: &Portal, key: &Key, until: Deadline) -> Result<(Held, Vec<Entry<'static>>)> {
    let claim = job.app.store.claim(key.client, &portal.name, key.text, &key.request, until);
    match claim.map_err(Error::Storage)? {
        Claim::Opened(journal, entries) => Ok((Held { journal, begun: !entries.is_empty() }, entries)),
        Claim::OtherRequest => Err(Error::IdempotencyKeyReused),
        Claim::Busy => Err(Error::KeyInUse { retry_after: 2 }),
    }
}

thread_local! {
    /// Frees the key that this thread has begun and not ended.
    static BEGUN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// For a process that ends at once and has sent nothing.
pub fn free_begun_key() {
    if let Some(free) = BEGUN.take() {
        free();
    }
}

/// A key that is open here. Dropped once the call was begun, whatever the reason, its outcome is unknown.
pub struct Held {
    journal: Box<dyn Journal>,
    begun: bool,
}

impl Held {
    /// Writes down that the call is about to be sent. Once; later sends of the same call change nothing.
    pub fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        match self.journal.append(&Entry::Begun).map_err(Error::Storage)? {
            Appended::Full { retry_after } => Err(Error::RateLimited {
                why: format!(
                    "This client keeps as many idempotency keys as it may ({}, or 64 MiB of answers in 24 hours). The \
                     call was not executed.",
                    QUOTA.keys
                ),
                retry_after,
            }),
            Appended::Kept | Appended::WithoutBody => {
                self.begun = true;
                BEGUN.set(Some(self.journal.last_will()));
                Ok(())
            }
        }
    }

    /// What the end of its call means for the key: an answer is kept, if there is room; what is certainly not executed frees
    /// it; and an unknown outcome leaves it as it stands, begun and never executed again.
    fn end(mut self, job: Job, result: &std::result::Result<Reply, Failed>) {
        BEGUN.take();
        match result {
            Ok(reply) => {
                let content_type = reply.content_type.as_deref().unwrap_or(crate::values::answer::JSON).to_owned();
                let body = Some(Cow::Borrowed(reply.body.as_slice()));
                // It goes to the caller in any case.
                if let Err(why) = self.journal.append(&Entry::Done { status: reply.status, content_type, body }) {
                    job.log.error(&format!("the answer of an idempotency key was not kept: {why}"));
                }
            }
            Err(failed) if failed.executed() == Some(Executed::Unknown) => {}
            Err(_) => self.journal.forget(),
        }
    }
}

/// A key whose request has many calls.
pub struct Journaled {
    held: Held,
    kept: Piece,
    /// It was written down that calls are about to be sent, and nothing yet of what became of them.
    sending: bool,
}

impl Journaled {
    /// Opens the key of a request with so many calls, with what it has done so far, to go on behind it.
    pub fn open(job: Job, portal: &Portal, key: &Key, calls: usize, until: Deadline) -> Result<Journaled> {
        let (held, entries) = open(job, portal, key, until)?;
        let mut kept = results_in(entries, calls).map_err(|why| {
            Error::Storage(format!("the idempotency key in {} cannot be used: {why}", held.journal.place()))
        })?;
        kept.text = secrets::of_portal(job.app, portal).bytes(kept.text);
        Ok(Journaled { held, kept, sending: false })
    }

    /// The results of the calls that are done.
    pub fn take_kept(&mut self) -> Piece {
        std::mem::take(&mut self.kept)
    }

    /// The next so many calls are about to be sent.
    pub fn sending(&mut self, calls: usize) -> Result<()> {
        self.held.begin()?;
        self.append(&Entry::Sending { calls })?;
        self.sending = true;
        Ok(())
    }

    /// They were not. Where that they would be could not be written down, there is nothing to take back.
    pub fn not_sent(&mut self) -> Result<()> {
        match std::mem::take(&mut self.sending) {
            true => self.append(&Entry::NotSent),
            false => Ok(()),
        }
    }

    /// Nothing of the request was executed: the key is free again.
    pub fn free(self) {
        BEGUN.take();
        self.held.journal.forget();
    }

    /// They ended with these results. Where those cannot be kept, no more may be sent.
    pub fn finished(&mut self, piece: &Piece) -> Result<()> {
        self.sending = false;
        let Piece { calls, errors, halted, .. } = *piece;
        self.append(&Entry::Results { calls, errors, halted, body: Some(Cow::Borrowed(&piece.text)) })
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        self.held.journal.append(entry).map(drop).map_err(Error::Storage)
    }
}

/// The results in a key's entries, of so many calls, those of unknown outcome included.
fn results_in(entries: Vec<Entry>, most: usize) -> std::result::Result<Piece, &'static str> {
    let (mut results, mut sending) = (Piece::default(), 0);
    let within = |done: usize, more: usize| match more <= most.saturating_sub(done) {
        true => Ok(()),
        false => Err("it speaks of more calls than there are"),
    };
    for entry in entries {
        match entry {
            Entry::Begun | Entry::Done { .. } => {}
            // Where the ones before have no results, the process ended while it sent them.
            Entry::Sending { calls } => {
                results.append(lost_in_sending(std::mem::replace(&mut sending, calls)));
                within(results.calls, calls)?;
            }
            Entry::NotSent => sending = 0,
            Entry::Results { calls, errors, halted, body } => {
                within(results.calls, calls)?;
                results.append(match body {
                    Some(text) => Piece { text: text.into_owned(), calls, errors, halted },
                    None => {
                        let lost = Piece::lost(calls, "The call was executed; its result was too large to be kept.");
                        Piece { halted, ..lost }
                    }
                });
                sending = 0;
            }
        }
    }
    results.append(lost_in_sending(sending));
    Ok(results)
}

/// As at a lost answer, a request with `halt` goes no further.
fn lost_in_sending(calls: usize) -> Piece {
    let lost = Piece::lost(calls, "The answer was lost; the call may have been executed.");
    Piece { halted: calls > 0, ..lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(entries: &[Entry<'static>], calls: usize) -> (usize, usize, bool) {
        let piece = results_in(entries.to_vec(), calls).unwrap();
        (piece.calls, piece.errors, piece.halted)
    }

    fn one_result(calls: usize) -> Entry<'static> {
        Entry::Results { calls, errors: 0, halted: false, body: Some(Cow::Borrowed(b"{}")) }
    }

    #[test]
    fn calls_that_were_being_sent_stay_unknown_whatever_follows() {
        let sending = Entry::Sending { calls: 2 };
        assert_eq!(results(&[Entry::Begun, sending.clone()], 10), (2, 2, true));
        let next = Entry::Sending { calls: 1 };
        assert_eq!(results(&[Entry::Begun, sending.clone(), next.clone(), one_result(1)], 10), (3, 2, true));
        assert_eq!(results(&[Entry::Begun, sending.clone(), Entry::NotSent], 10), (0, 0, false));
        assert_eq!(results(&[Entry::Begun, sending, one_result(2), next], 10), (3, 1, true));
    }

    #[test]
    fn results_that_found_no_room_are_known_to_be_executed() {
        let without = Entry::Results { calls: 3, errors: 0, halted: false, body: None };
        assert_eq!(results(&[Entry::Begun, Entry::Sending { calls: 3 }, without], 3), (3, 3, false));
    }

    #[test]
    fn a_journal_of_more_calls_than_there_are_is_not_used() {
        assert!(results_in(vec![Entry::Begun, Entry::Sending { calls: 4 }], 3).is_err());
        assert!(results_in(vec![Entry::Begun, one_result(4)], 3).is_err());
    }

    #[test]
    fn what_is_kept_is_the_answer_or_that_there_was_one() {
        let done = |body| Entry::Done { status: 200, content_type: "a/b".into(), body };
        let answer = kept_answer(vec![Entry::Begun, done(Some(Cow::Borrowed(b"{}")))]);
        assert!(
            matches!(answer, Some(Ok(reply)) if reply.body == b"{}" && reply.headers.contains_key("Idempotent-Replayed"))
        );
        let answer = kept_answer(vec![Entry::Begun, done(None)]);
        assert!(matches!(answer, Some(Err(Failed::Error(Error::OutcomeUnknown { too_large: true })))));
        assert!(kept_answer(vec![Entry::Begun]).is_none());
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
