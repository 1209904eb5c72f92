//! A key's journal on the disk: its records, how they are written, and how they are read again.
//!
//! A journal is a line of JSON for each record, followed by as many bytes of content as the line says. Records are only
//! appended; an incomplete one does not count, and is taken back where it could not be written whole: what is appended behind
//! it would be read as its content.
//!
//! Version 0.1 reads these journals too: it knows no calls that are pending, so to it they have ended with the error that
//! stands in their place, and what is written when they are sent again speaks of no call (`"calls":0`). It sends none twice.

use crate::store::records::Entry;
use crate::store::KEY_LIFETIME;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};

/// A line of a journal. Lengths are the bytes of content behind it; `None`: there was no room for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record {
    Begun {
        /// Of the request.
        fingerprint: String,
        /// Unix seconds.
        at: i64,
        /// Empty in those of older versions.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        portal: String,
    },
    Done {
        status: u16,
        content_type: String,
        length: Option<u64>,
    },
    Sending {
        calls: usize,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held: Vec<usize>,
        /// Not empty: [`Entry::SendingAgain`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<usize>,
    },
    NotSent,
    Results {
        calls: usize,
        errors: usize,
        halted: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pending: Vec<usize>,
        /// Not empty: [`Entry::ResultsAgain`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<usize>,
        length: Option<u64>,
    },
}

/// What a journal says to a request.
pub enum Found {
    /// Nothing that counts.
    Nothing,
    /// Begun longer ago than a key lives.
    Expired,
    /// Begun by another request.
    OtherRequest,
    Entries(Vec<Entry<'static>>),
}

/// Reads a journal, and where its last whole record ends.
pub fn read(file: &mut File, request: &str, now: i64) -> std::io::Result<(Found, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    match next_record(&mut reader)? {
        Some(Record::Begun { at, .. }) if !is_alive(at, now) => return Ok((Found::Expired, 0)),
        Some(Record::Begun { fingerprint, .. }) if fingerprint != request => return Ok((Found::OtherRequest, 0)),
        Some(Record::Begun { .. }) => {}
        // Half a record, of a machine that lost its power.
        _ => return Ok((Found::Nothing, 0)),
    }
    let (mut entries, mut end) = (vec![Entry::Begun], reader.stream_position()?);
    while let Some(entry) = next_entry(&mut reader)? {
        entries.push(entry);
        end = reader.stream_position()?;
    }
    Ok((Found::Entries(entries), end))
}

/// The next whole entry, with its content; `None` at the end, and where one is incomplete.
fn next_entry(reader: &mut impl BufRead) -> std::io::Result<Option<Entry<'static>>> {
    let Some(record) = next_record(reader)? else { return Ok(None) };
    let mut content = |length: Option<u64>| -> std::io::Result<Option<Option<Cow<'static, [u8]>>>> {
        let Some(length) = length else { return Ok(Some(None)) };
        let mut bytes = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 == length).then_some(Some(Cow::Owned(bytes))))
    };
    Ok(match record {
        Record::Begun { .. } => Some(Entry::Begun),
        Record::Sending { again, .. } if !again.is_empty() => Some(Entry::SendingAgain { calls: again }),
        Record::Sending { calls, held, .. } => Some(Entry::Sending { calls, held }),
        Record::NotSent => Some(Entry::NotSent),
        Record::Done { status, content_type, length } => {
            content(length)?.map(|body| Entry::Done { status, content_type, body })
        }
        Record::Results { again, length, .. } if !again.is_empty() => {
            content(length)?.map(|body| Entry::ResultsAgain { calls: again, body })
        }
        Record::Results { calls, errors, halted, pending, length, .. } => {
            content(length)?.map(|body| Entry::Results { calls, errors, halted, pending, body })
        }
    })
}

/// The next whole record; `None` at the end, and where a record is incomplete.
fn next_record(reader: &mut impl BufRead) -> std::io::Result<Option<Record>> {
    let mut line = Vec::new();
    reader.by_ref().take(4096).read_until(b'\n', &mut line)?;
    Ok(line.ends_with(b"\n").then(|| serde_json::from_slice(&line).ok()).flatten())
}

/// A journal as it moves elsewhere.
pub struct Whole {
    pub request: String,
    pub portal: String,
    /// Unix seconds.
    pub at: i64,
    pub entries: Vec<Entry<'static>>,
}

/// Of which portal a journal that still counts is; empty: it does not say.
pub fn portal_of(file: &mut File, now: i64) -> Option<String> {
    file.seek(SeekFrom::Start(0)).ok()?;
    match next_record(&mut BufReader::new(file)).ok()?? {
        Record::Begun { at, portal, .. } if is_alive(at, now) => Some(portal),
        _ => None,
    }
}

/// All of a journal that still counts.
pub fn whole(file: &mut File, now: i64) -> std::io::Result<Option<Whole>> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let Some(Record::Begun { fingerprint: request, at, portal }) = next_record(&mut reader)? else { return Ok(None) };
    if !is_alive(at, now) {
        return Ok(None);
    }
    let mut entries = vec![Entry::Begun];
    while let Some(entry) = next_entry(&mut reader)? {
        entries.push(entry);
    }
    Ok(Some(Whole { request, portal, at, entries }))
}

/// When the call of a journal that still counts was begun, in Unix seconds.
pub fn alive_since(file: &mut File, now: i64) -> Option<i64> {
    file.seek(SeekFrom::Start(0)).ok()?;
    match next_record(&mut BufReader::new(file)).ok()?? {
        Record::Begun { at, .. } if is_alive(at, now) => Some(at),
        _ => None,
    }
}

/// Whether a call that was begun then still holds its key. A clock set back frees none.
fn is_alive(at: i64, now: i64) -> bool {
    now.saturating_sub(at) < KEY_LIFETIME
}

/// Whose a journal is, for its first record.
pub struct Origin<'o> {
    pub request: &'o str,
    pub portal: &'o str,
}

/// An entry's line. `with_body`: whether its body follows.
pub fn line(entry: &Entry, origin: &Origin, now: i64, with_body: bool) -> Vec<u8> {
    let body = entry.body().filter(|_| with_body);
    let length = body.map(|body| body.len() as u64);
    let record = match entry {
        Entry::Begun => {
            Record::Begun { fingerprint: origin.request.to_owned(), at: now, portal: origin.portal.to_owned() }
        }
        Entry::Done { status, content_type, .. } => {
            Record::Done { status: *status, content_type: content_type.clone(), length }
        }
        Entry::Sending { calls, held } => Record::Sending { calls: *calls, held: held.clone(), again: Vec::new() },
        Entry::SendingAgain { calls } => Record::Sending { calls: 0, held: Vec::new(), again: calls.clone() },
        Entry::NotSent => Record::NotSent,
        Entry::Results { calls, errors, halted, pending, .. } => {
            let (pending, again) = (pending.clone(), Vec::new());
            Record::Results { calls: *calls, errors: *errors, halted: *halted, pending, again, length }
        }
        Entry::ResultsAgain { calls, .. } => {
            let (pending, again) = (Vec::new(), calls.clone());
            Record::Results { calls: 0, errors: 0, halted: false, pending, again, length }
        }
    };
    let mut line = serde_json::to_vec(&record).expect("plain data serializes");
    line.push(b'\n');
    line
}

/// Writes an entry, on disk when it returns: all of it or nothing. `with_body`: whether its body finds room.
pub fn append(file: &mut File, entry: &Entry, origin: &Origin, now: i64, with_body: bool) -> std::io::Result<()> {
    let line = line(entry, origin, now, with_body);
    let body = entry.body().filter(|_| with_body);
    let end = file.seek(SeekFrom::End(0))?;
    let content = body.unwrap_or_default();
    let written = file.write_all(&line).and_then(|()| file.write_all(content)).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(end);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What version 0.1 reads.
    #[derive(Deserialize, Debug)]
    #[serde(tag = "record", rename_all = "snake_case")]
    enum Of01 {
        Begun {},
        Sending { calls: usize },
        NotSent,
        Results { calls: usize, length: Option<u64> },
    }

    /// How many results version 0.1 finds, and whether it takes calls that were being sent for such of unknown outcome.
    fn as_01_reads(journal: &[u8]) -> (usize, usize) {
        let (mut rest, mut results, mut sending) = (journal, 0, 0);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let record: Of01 = serde_json::from_slice(&rest[..end]).expect("a record that it knows");
            rest = &rest[end + 1..];
            match record {
                Of01::Begun {} => {}
                Of01::Sending { calls } => {
                    results += std::mem::replace(&mut sending, calls);
                }
                Of01::NotSent => sending = 0,
                Of01::Results { calls, length } => {
                    rest = &rest[length.unwrap_or(0) as usize..];
                    (results, sending) = (results + calls, 0);
                }
            }
        }
        (results, sending)
    }

    #[test]
    fn to_version_0_1_calls_that_were_pending_have_ended_and_no_other_is_sent_twice() {
        let path = std::env::temp_dir().join(format!("b24proxy-journal-{}", crate::values::secret::random_hex::<8>()));
        let mut file = crate::system::disk::open_or_create(&path).unwrap();
        let results = |calls, pending: &[usize]| Entry::Results {
            calls,
            errors: pending.len(),
            halted: false,
            pending: pending.to_vec(),
            body: Some(Cow::Borrowed(b"1,\n2")),
        };
        let again = vec![1, 3];
        let body = Some(Cow::Borrowed(&b"{\"a\":\n1}"[..]));
        let mut read = |entry: &Entry| {
            append(&mut file, entry, &Origin { request: "what", portal: "" }, 0, true).unwrap();
            as_01_reads(&std::fs::read(&path).unwrap())
        };
        for (entry, expected) in [
            (Entry::Begun, (0, 0)),
            (Entry::Sending { calls: 50, held: vec![1] }, (0, 50)),
            (results(48, &again), (48, 0)),
            (Entry::SendingAgain { calls: again.clone() }, (48, 0)),
            (Entry::ResultsAgain { calls: vec![3], body: body.clone() }, (48, 0)),
            (Entry::SendingAgain { calls: vec![1] }, (48, 0)),
            (Entry::NotSent, (48, 0)),
            (Entry::SendingAgain { calls: vec![1] }, (48, 0)),
            (Entry::ResultsAgain { calls: vec![1], body }, (48, 0)),
            (Entry::Sending { calls: 12, held: vec![] }, (48, 12)),
            (results(12, &[]), (60, 0)),
        ] {
            assert_eq!(read(&entry), expected, "{entry:?}");
        }
        std::fs::remove_file(path).unwrap();
    }

    proptest! {
        #[test]
        fn no_journal_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = next_entry(&mut bytes.as_slice());
            let _ = next_entry(&mut [b"{\"record\":\"not_sent\"}\n", bytes.as_slice()].concat().as_slice());
        }
    }
}
