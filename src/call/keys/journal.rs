//! A key's journal: its records, how they are written, and what they say when they are read again.

use crate::call::results::Piece;
use crate::system::clock::unix_now;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};

/// A key lives 24 hours, as Bitrix24's own do.
pub const LIFETIME: i64 = 24 * 3600;

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// A line of a journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    Begun {
        fingerprint: String,
        /// Unix seconds.
        at: i64,
    },
    Done {
        status: u16,
        content_type: String,
        /// Bytes of content behind this line; `None`: the answer was too large to be kept.
        length: Option<u64>,
    },
    /// Of a request with many calls: the next so many of them are about to be sent.
    Sending { calls: usize },
    /// They were not sent after all.
    NotSent,
    /// They ended: their results, as [`Piece`] holds them, behind this line; `None`: too large to be kept.
    Results { calls: usize, errors: usize, halted: bool, length: Option<u64> },
}

/// The results in a journal of so many calls, those of unknown outcome included, and where its last whole record ends.
pub fn read_results(file: &mut File, most: usize) -> std::io::Result<(Piece, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let (mut results, mut sending, mut end) = (Piece::default(), 0, 0);
    let within = |done: usize, more: usize| match more <= most.saturating_sub(done) {
        true => Ok(()),
        false => Err(std::io::Error::new(ErrorKind::InvalidData, "it speaks of more calls than there are")),
    };
    while let Some(record) = next_record(&mut reader)? {
        match record {
            Record::Begun { .. } | Record::Done { .. } => {}
            // Where the ones before have no results, the process ended while it sent them.
            Record::Sending { calls } => {
                results.append(lost_in_sending(std::mem::replace(&mut sending, calls)));
                within(results.calls, calls)?;
            }
            Record::NotSent => sending = 0,
            Record::Results { calls, errors, halted, length } => {
                within(results.calls, calls)?;
                let Some(piece) = read_piece(&mut reader, calls, errors, halted, length)? else { break };
                results.append(piece);
                sending = 0;
            }
        }
        end = reader.stream_position()?;
    }
    results.append(lost_in_sending(sending));
    Ok((results, end))
}

/// The results behind their record; `None` where they are incomplete.
fn read_piece(
    reader: &mut impl Read,
    calls: usize,
    errors: usize,
    halted: bool,
    length: Option<u64>,
) -> std::io::Result<Option<Piece>> {
    let Some(length) = length else {
        let lost = Piece::lost(calls, "The call was executed; its result was too large to be kept.");
        return Ok(Some(Piece { halted, ..lost }));
    };
    let mut text = Vec::new();
    reader.take(length).read_to_end(&mut text)?;
    Ok((text.len() as u64 == length).then_some(Piece { text, calls, errors, halted }))
}

/// As at a lost answer, a request with `halt` goes no further.
fn lost_in_sending(calls: usize) -> Piece {
    let lost = Piece::lost(calls, "The answer was lost; the call may have been executed.");
    Piece { halted: calls > 0, ..lost }
}

pub enum Journal {
    Empty,
    Expired,
    Begun { fingerprint: String, outcome: Outcome },
}

/// What became of a call that was begun.
pub enum Outcome {
    Unknown,
    /// It was executed, and its answer could not be kept.
    TooLarge,
    Kept(Kept),
}

pub fn read_journal(file: &mut File) -> std::io::Result<Journal> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let Some(Record::Begun { fingerprint, at }) = next_record(&mut reader)? else { return Ok(Journal::Empty) };
    if !is_alive(at, unix_now()) {
        return Ok(Journal::Expired);
    }
    let outcome = match next_record(&mut reader)? {
        Some(Record::Done { status, content_type, length: Some(length) }) => {
            let mut body = Vec::new();
            reader.take(length).read_to_end(&mut body)?;
            match body.len() as u64 == length {
                true => Outcome::Kept(Kept { status, content_type, body }),
                false => Outcome::Unknown,
            }
        }
        Some(Record::Done { length: None, .. }) => Outcome::TooLarge,
        _ => Outcome::Unknown,
    };
    Ok(Journal::Begun { fingerprint, outcome })
}

/// The next whole record; `None` at the end, and where a record is incomplete.
fn next_record(reader: &mut impl BufRead) -> std::io::Result<Option<Record>> {
    let mut line = Vec::new();
    reader.by_ref().take(4096).read_until(b'\n', &mut line)?;
    Ok(line.ends_with(b"\n").then(|| serde_json::from_slice(&line).ok()).flatten())
}

/// When the call of a journal that still counts was begun.
pub fn alive_since(file: &mut File, now: i64) -> Option<i64> {
    file.seek(SeekFrom::Start(0)).ok()?;
    match next_record(&mut BufReader::new(file)).ok()?? {
        Record::Begun { at, .. } if is_alive(at, now) => Some(at),
        _ => None,
    }
}

/// Whether a call that was begun then still holds its key. A clock set back frees none.
fn is_alive(at: i64, now: i64) -> bool {
    now.saturating_sub(at) < LIFETIME
}

/// All of it or nothing.
pub fn append(file: &mut File, record: &Record, content: &[u8]) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(record).expect("plain data serializes");
    line.push(b'\n');
    let end = file.seek(SeekFrom::End(0))?;
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

    proptest! {
        #[test]
        fn no_journal_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = next_record(&mut bytes.as_slice());
        }
    }
}
