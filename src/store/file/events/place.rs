//! Where a portal's events lie, and how its files are read.

use crate::store::file::folder::Folder;
use crate::store::file::in_place;
use crate::store::records::Event;
use crate::system::clock::unix_now_ms;
use crate::system::disk::{create_private_folder, explain, open_to_read, Reason};
use crate::values::event::Bounds;
use crate::values::portal::PortalName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

const STATE: &str = "state";
const ENDING: &str = ".events";
/// Of a file, at most: what is dropped is dropped by files.
pub const LARGEST: u64 = 4 << 20;
/// The events of one portal.
#[derive(Clone)]
pub struct Mailbox {
    pub folder: PathBuf,
}

/// How far all is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The newest number.
    pub last: u64,
    /// Of the newest file.
    pub first: u64,
    /// Its length.
    pub end: u64,
    /// Tells one that is read while it is being written.
    check: u64,
}

impl State {
    pub fn new(last: u64, first: u64, end: u64) -> State {
        let check = last.wrapping_mul(3).wrapping_add(first.wrapping_mul(5)).wrapping_add(end.wrapping_mul(7));
        State { last, first, end, check }
    }

    pub fn read(file: &File) -> Option<State> {
        let state: State = in_place::read(file)?;
        (state == State::new(state.last, state.first, state.end) && state.first > 0).then_some(state)
    }
}

/// A line as it is read.
#[derive(Deserialize)]
struct Line<'l> {
    at: i64,
    event: &'l str,
    #[serde(borrow)]
    data: &'l RawValue,
}

pub fn parsed(line: &[u8], number: u64) -> Option<Event> {
    let line: Line = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    Some(Event { number, at_ms: line.at, name: line.event.to_owned(), data: line.data.get().to_owned() })
}

/// When the event of a line arrived.
pub fn at_of(line: &[u8]) -> Option<i64> {
    let digits = line.strip_prefix(b"{\"at\":")?;
    std::str::from_utf8(digits.split(|byte| *byte == b',').next()?).ok()?.parse().ok()
}

impl Mailbox {
    pub fn new(folder: &Folder, portal: &PortalName) -> Mailbox {
        Mailbox { folder: folder.path.join("events").join(portal.file_stem()) }
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join(STATE)
    }

    pub fn segment(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}{ENDING}"))
    }

    /// The first numbers of the files, in order.
    pub fn segments(&self) -> Result<Vec<u64>, Reason> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| explain(&e, "read", &self.folder))?,
        };
        let first = |name: String| name.strip_suffix(ENDING)?.parse().ok();
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut segments: Vec<u64> = names.filter_map(first).collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// The first number within the bounds, the oldest having gone first. `None`: a file is not there any more.
    pub fn first_shown(&self, segments: &[u64], state: State, bounds: &Bounds) -> Result<Option<u64>, Reason> {
        let (lowest, now_ms) = (bounds.lowest(state.last), unix_now_ms());
        let mut lengths = Vec::with_capacity(segments.len());
        for first in segments {
            match self.segment(*first).metadata() {
                _ if *first == state.first => lengths.push(state.end),
                Ok(metadata) => lengths.push(metadata.len()),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(explain(&error, "read", &self.segment(*first))),
            }
        }
        let surplus = lengths.iter().sum::<u64>().saturating_sub(bounds.max_size);
        let mut at = 0;
        for (i, first) in segments.iter().enumerate() {
            let is_behind = segments.get(i + 1).is_none_or(|next| *next > lowest) && at + lengths[i] > surplus;
            if !is_behind {
                at += lengths[i];
                continue;
            }
            let Some(mut lines) = self.lines(*first, state)? else { return Ok(None) };
            while let Some(line) = lines.next()? {
                let is_young = || at_of(line.bytes).is_some_and(|at_ms| bounds.is_young(at_ms, now_ms));
                if line.number >= lowest && at >= surplus && is_young() {
                    return Ok(Some(line.number));
                }
                at += line.bytes.len() as u64;
            }
        }
        Ok(Some(state.last + 1))
    }

    pub fn lines(&self, first: u64, state: State) -> Result<Option<Lines>, Reason> {
        let path = self.segment(first);
        let file = match open_to_read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(explain(&error, "read", &path)),
        };
        let end = if first == state.first { state.end } else { u64::MAX };
        Ok(Some(Lines {
            reader: BufReader::with_capacity(64 << 10, file).take(end),
            path,
            next: first,
            line: Vec::new(),
        }))
    }

    pub fn damaged(&self, first: u64) -> Reason {
        format!("{} is damaged: restore it from a copy, or move it away", self.segment(first).display())
    }

    /// So that new names in it are there after a power cut.
    pub fn sync(&self) {
        if let Ok(folder) = File::open(&self.folder) {
            let _ = folder.sync_all();
        }
    }
}

pub struct Lines {
    reader: std::io::Take<BufReader<File>>,
    path: PathBuf,
    next: u64,
    line: Vec<u8>,
}

pub struct Numbered<'l> {
    pub number: u64,
    /// With its end.
    pub bytes: &'l [u8],
}

impl Lines {
    pub fn next(&mut self) -> Result<Option<Numbered<'_>>, Reason> {
        self.line.clear();
        self.reader.read_until(b'\n', &mut self.line).map_err(|e| explain(&e, "read", &self.path))?;
        if self.line.last() != Some(&b'\n') {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(Numbered { number: self.next - 1, bytes: &self.line }))
    }
}

impl Folder {
    /// A folder whose names, and that of what lies above it, are there after a power cut.
    pub fn prepare_events(&self, portal: &PortalName) -> Result<Mailbox, Reason> {
        let mailbox = Mailbox::new(self, portal);
        if !mailbox.folder.exists() {
            create_private_folder(&mailbox.folder)?;
            for folder in [mailbox.folder.parent().unwrap_or(Path::new(".")), &self.path] {
                if let Ok(folder) = File::open(folder) {
                    let _ = folder.sync_all();
                }
            }
        }
        Ok(mailbox)
    }
}
