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
//! last results, and calls that were being sent when the process ended have an unknown outcome. Calls that Bitrix24 refused
//! for now and that stand before results are pending: they come first when the request goes on. No other is sent while one is
//! pending, so that there are fewer of them than a batch has. A definite error frees the key.

use super::outcome::Failed;
use super::results::{write_unknown, Piece};
use super::secrets;
use crate::app::Job;
use crate::config::Portal;
use crate::store::records::Entry;
use crate::store::{Appended, Claim, Journal, QUOTA};
use crate::system::clock::Deadline;
use crate::upstream::http::Reply;
use crate::values::error::{Error, Executed, Result};
use crate::values::json;
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

/// Another request begins in a process that serves many: whatever became of a key before is no longer its.
pub fn begin_request() {
    BEGUN.take();
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
        let hide = secrets::of_portal(job.app, portal);
        let kept = results_in(entries, calls, |text| hide.bytes(text)).map_err(|why| {
            Error::Storage(format!("the idempotency key in {} cannot be used: {why}", held.journal.place()))
        })?;
        Ok(Journaled { held, kept, sending: false })
    }

    /// The results of the calls that are done, and those that are pending in their places.
    pub fn take_kept(&mut self) -> Piece {
        std::mem::take(&mut self.kept)
    }

    /// The next so many calls are about to be sent, those of the indexes in `held` excepted.
    pub fn sending(&mut self, calls: usize, held: Vec<usize>) -> Result<()> {
        self.about_to_send(&Entry::Sending { calls, held })
    }

    /// These calls, which are pending, are.
    pub fn sending_again(&mut self, calls: Vec<usize>) -> Result<()> {
        self.about_to_send(&Entry::SendingAgain { calls })
    }

    fn about_to_send(&mut self, entry: &Entry) -> Result<()> {
        self.held.begin()?;
        self.append(entry)?;
        self.sending = true;
        Ok(())
    }

    /// None of them was executed. Where that they would be sent could not be written down, there is nothing to take back.
    pub fn not_sent(&mut self) -> Result<()> {
        match std::mem::take(&mut self.sending) {
            true => self.append(&Entry::NotSent),
            false => Ok(()),
        }
    }

    /// Nothing of the request was executed: the key is free again.
    pub fn free(self) {
        self.held.journal.forget();
    }

    /// The calls from this index on ended with these results. Where those cannot be kept, no more may be sent.
    pub fn finished(&mut self, from: usize, piece: &Piece) -> Result<()> {
        if piece.calls == 0 {
            return self.not_sent();
        }
        self.sending = false;
        let pending = piece.pending().into_iter().map(|call| from + call).collect();
        let Piece { calls, errors, halted, .. } = *piece;
        self.append(&Entry::Results { calls, errors, halted, pending, body: Some(Cow::Borrowed(&piece.text)) })
    }

    /// The same of calls that were pending.
    pub fn finished_again(&mut self, entries: &[(usize, Vec<u8>)]) -> Result<()> {
        if entries.is_empty() {
            return self.not_sent();
        }
        self.sending = false;
        let texts: Vec<&[u8]> = entries.iter().map(|(_, text)| text.as_slice()).collect();
        let calls = entries.iter().map(|(call, _)| *call).collect();
        self.append(&Entry::ResultsAgain { calls, body: Some(Cow::Owned(texts.join(&b","[..]))) })
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        self.held.journal.append(entry).map(drop).map_err(Error::Storage)
    }
}

const LOST: &str = "The answer was lost; the call may have been executed.";
const TOO_LARGE: &str = "The call was executed; its result was too large to be kept.";

/// The results in a key's entries, of so many calls, those of unknown outcome included.
fn results_in(
    entries: Vec<Entry>,
    most: usize,
    shown: impl Fn(Vec<u8>) -> Vec<u8>,
) -> std::result::Result<Piece, &'static str> {
    let mut results = Piece::default();
    // Where calls that were being sent have no results, the process ended while it sent them.
    let mut sending = Sending::Nothing;
    let within = |done: usize, more: usize| match more <= most.saturating_sub(done) {
        true => Ok(()),
        false => Err("it speaks of more calls than there are"),
    };
    for entry in entries {
        match entry {
            Entry::Begun | Entry::Done { .. } => {}
            Entry::Sending { calls, held } => {
                sending.lost(&mut results);
                within(results.calls, calls)?;
                sending = Sending::Next { calls, held };
            }
            Entry::SendingAgain { calls } => {
                sending.lost(&mut results);
                are_pending(&results, &calls)?;
                sending = Sending::Again(calls);
            }
            Entry::NotSent => sending = Sending::Nothing,
            Entry::Results { calls, errors, halted, pending, body } => {
                within(results.calls, calls)?;
                let from = results.calls;
                let pending: Vec<usize> = pending.iter().filter_map(|call| call.checked_sub(from)).collect();
                results.append(match body {
                    Some(text) => Piece::of_text(shown(text.into_owned()), calls, errors, halted, &pending),
                    None => unknown_but(calls, &pending, TOO_LARGE).with_halted(halted),
                });
                sending = Sending::Nothing;
            }
            Entry::ResultsAgain { calls, body } => {
                are_pending(&results, &calls)?;
                let entries = match body {
                    Some(text) => entries_of(&shown(text.into_owned())),
                    None => calls.iter().map(|_| unknown_entry(TOO_LARGE)).collect(),
                };
                results.fill(calls.into_iter().zip(entries).collect());
                sending = Sending::Nothing;
            }
        }
    }
    sending.lost(&mut results);
    Ok(results)
}

/// What was written down as about to be sent.
enum Sending {
    Nothing,
    Next { calls: usize, held: Vec<usize> },
    Again(Vec<usize>),
}

impl Sending {
    /// What was being sent has an unknown outcome. As at a lost answer, a request with `halt` goes no further.
    fn lost(&mut self, results: &mut Piece) {
        match std::mem::replace(self, Sending::Nothing) {
            Sending::Nothing => {}
            Sending::Next { calls, held } => {
                let from = results.calls;
                let held: Vec<usize> = held.iter().filter_map(|call| call.checked_sub(from)).collect();
                results.append(unknown_but(calls, &held, LOST).with_halted(calls > 0));
            }
            Sending::Again(calls) => {
                results.fill(calls.into_iter().map(|call| (call, unknown_entry(LOST))).collect());
            }
        }
    }
}

/// So many results of unknown outcome; those of these indexes are pending.
fn unknown_but(calls: usize, pending: &[usize], why: &str) -> Piece {
    let mut piece = Piece::default();
    for call in 0..calls {
        match pending.contains(&call) {
            true => piece.push_refused("OPERATION_TIME_LIMIT", "Bitrix24 did not accept the call yet."),
            false => piece.push(|text| write_unknown(text, why)),
        }
    }
    piece
}

fn are_pending(results: &Piece, calls: &[usize]) -> std::result::Result<(), &'static str> {
    let pending = results.pending();
    match calls.iter().all(|call| pending.contains(call)) {
        true => Ok(()),
        false => Err("it speaks of calls that have their results"),
    }
}

fn unknown_entry(why: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    write_unknown(&mut entry, why);
    entry
}

fn entries_of(text: &[u8]) -> Vec<Vec<u8>> {
    let list = format!("[{}]", String::from_utf8_lossy(text));
    json::elements(&list).map_while(std::result::Result::ok).map(|entry| entry.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(entries: &[Entry<'static>], calls: usize) -> (usize, usize, bool) {
        let piece = read(entries, calls).unwrap();
        (piece.calls, piece.errors, piece.halted)
    }

    fn read(entries: &[Entry<'static>], calls: usize) -> std::result::Result<Piece, &'static str> {
        results_in(entries.to_vec(), calls, |text| text)
    }

    fn one_result(calls: usize) -> Entry<'static> {
        Entry::Results { calls, errors: 0, halted: false, pending: vec![], body: Some(Cow::Borrowed(b"{}")) }
    }

    fn sending(calls: usize) -> Entry<'static> {
        Entry::Sending { calls, held: vec![] }
    }

    /// Two calls have results, and between them those of these indexes are pending.
    fn with_pending(from: usize, pending: &[usize]) -> Entry<'static> {
        let mut piece = Piece::default();
        piece.push(|text| text.extend(b"{\"result\":1}"));
        pending.iter().for_each(|_| piece.push_refused("X", "x"));
        piece.push(|text| text.extend(b"{\"result\":2}"));
        let pending = pending.to_vec();
        assert!(pending.iter().enumerate().all(|(i, call)| *call == from + 1 + i));
        let (calls, errors) = (piece.calls, piece.errors);
        Entry::Results { calls, errors, halted: false, pending, body: Some(Cow::Owned(piece.text)) }
    }

    #[test]
    fn pending_calls_get_their_results_or_an_unknown_outcome_in_their_places() {
        let kept = [Entry::Begun, sending(50), one_result(1), sending(50), with_pending(1, &[2, 3])];
        let piece = read(&kept, 60).unwrap();
        assert_eq!((piece.calls, piece.errors, piece.pending()), (5, 2, vec![2, 3]));
        let with = |more: &[Entry<'static>]| read(&[&kept[..], more].concat(), 60);
        let again = |calls: &[usize]| Entry::SendingAgain { calls: calls.to_vec() };
        let result =
            |call, body: Option<&'static [u8]>| Entry::ResultsAgain { calls: vec![call], body: body.map(Cow::from) };
        // Killed while they were sent.
        let lost = with(&[again(&[2, 3])]).unwrap();
        assert_eq!((lost.calls, lost.errors, lost.pending()), (5, 2, vec![]));
        assert!(String::from_utf8(lost.text).unwrap().matches("OUTCOME_UNKNOWN").count() == 2);
        // Refused again, all of them or one.
        assert_eq!(with(&[again(&[2, 3]), Entry::NotSent]).unwrap(), piece);
        let one = with(&[again(&[2, 3]), result(3, Some(b"{\"result\":9}"))]).unwrap();
        assert_eq!((one.errors, one.pending()), (1, vec![2]));
        let both = with(&[again(&[2, 3]), result(3, Some(b"{\"result\":9}")), again(&[2]), result(2, None)]).unwrap();
        assert_eq!((both.calls, both.errors, both.pending()), (5, 1, vec![]));
        assert!(String::from_utf8(both.text).unwrap().ends_with(",{\"result\":9},{\"result\":2}"));
        for wrong in [again(&[1]), again(&[2, 4]), again(&[99]), result(0, None)] {
            assert!(with(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn calls_that_were_held_back_when_the_process_ended_are_pending_and_not_unknown() {
        let held = Entry::Sending { calls: 3, held: vec![2] };
        let piece = read(&[Entry::Begun, sending(1), one_result(1), held], 9).unwrap();
        assert_eq!((piece.calls, piece.errors, piece.pending(), piece.halted), (4, 3, vec![2], true));
    }

    #[test]
    fn calls_that_were_being_sent_stay_unknown_whatever_follows() {
        let (sending, next) = (sending(2), sending(1));
        assert_eq!(results(&[Entry::Begun, sending.clone()], 10), (2, 2, true));
        assert_eq!(results(&[Entry::Begun, sending.clone(), next.clone(), one_result(1)], 10), (3, 2, true));
        assert_eq!(results(&[Entry::Begun, sending.clone(), Entry::NotSent], 10), (0, 0, false));
        assert_eq!(results(&[Entry::Begun, sending, one_result(2), next], 10), (3, 1, true));
    }

    #[test]
    fn results_that_found_no_room_are_known_to_be_executed() {
        let without = Entry::Results { calls: 3, errors: 0, halted: false, pending: vec![], body: None };
        assert_eq!(results(&[Entry::Begun, sending(3), without], 3), (3, 3, false));
    }

    #[test]
    fn a_journal_of_more_calls_than_there_are_is_not_used() {
        assert!(read(&[Entry::Begun, sending(4)], 3).is_err());
        assert!(read(&[Entry::Begun, one_result(4)], 3).is_err());
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
