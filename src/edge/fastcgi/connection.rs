//! A connection of the web server, as a worker reads it: one request after another, and its body while it is served.

use super::record::{pairs, push, values, Begin, Ended, Header, Kind, HEADER, MOST_CONTENT, NO_REQUEST};
use super::wire::Wire;
use crate::system::clock::Deadline;
use crate::system::ready::is_ready;
use crate::system::wait::stand_aside;
use crate::values::request::{Source, Variables};
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of a request's parameters: what Linux passes to a CGI program.
const MOST_PARAMETERS: usize = 2 << 20;
/// Room for a usual request, its body included.
const BUFFER: usize = 16 << 10;
/// What comes so soon was on its way.
const SOON: Duration = Duration::from_millis(5);
/// How long the rest of a record may take that speaks of no request that is served.
const MEANWHILE: Duration = Duration::from_secs(10);

/// It has ended, in the middle of something or not, or what came is no FastCGI, or nothing came in time.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable;

/// A request whose parameters have come.
pub struct Begun {
    pub id: u16,
    /// The connection stays when it has ended.
    pub keep: bool,
    pub variables: Variables,
}

pub struct Connection {
    pub wire: Arc<Wire>,
    /// What is told who asks how many requests are served at once.
    at_once: u32,
    buffer: Vec<u8>,
    /// Of the buffer, what is not taken yet.
    start: usize,
    end: usize,
    stdin: Stdin,
}

/// The standard input of the request that is served.
#[derive(Default)]
struct Stdin {
    id: u16,
    /// Of the record that is being read.
    content: usize,
    padding: usize,
    ended: bool,
    aborted: bool,
}

impl Connection {
    pub fn new(wire: Arc<Wire>, at_once: u32) -> Connection {
        let ended = Stdin { ended: true, ..Stdin::default() };
        Connection { wire, at_once, buffer: vec![0; BUFFER], start: 0, end: 0, stdin: ended }
    }

    /// The next request, where one begins to come within that time; its parameters come by then, or the connection is
    /// unusable.
    pub fn next(&mut self, mut within: Duration, until: Deadline) -> Result<Option<Begun>, Unusable> {
        let mut begun: Option<(u16, Begin)> = None;
        let mut parameters = Vec::new();
        loop {
            if begun.is_none() && !self.has_come(std::mem::take(&mut within))? {
                return Ok(None);
            }
            let record = self.header(until)?;
            let of_begun = begun.filter(|(id, _)| *id == record.id);
            match (record.kind, of_begun) {
                (Ok(Kind::BeginRequest), None) if record.id != NO_REQUEST => {
                    let begin = Begin::of(&self.content(record, until)?).ok_or(Unusable)?;
                    match (begun, begin.is_responder) {
                        (Some(_), _) => self.refuse(record.id, Ended::CannotMultiplex)?,
                        (None, false) => {
                            self.refuse(record.id, Ended::UnknownRole)?;
                            if !begin.keep {
                                return Err(Unusable);
                            }
                        }
                        (None, true) => begun = Some((record.id, begin)),
                    }
                }
                (Ok(Kind::Params), Some((id, begin))) => {
                    if record.content == 0 {
                        self.content(record, until)?;
                        let variables = Variables::new(pairs(&parameters).ok_or(Unusable)?);
                        self.stdin = Stdin { id, ..Stdin::default() };
                        return Ok(Some(Begun { id, keep: begin.keep, variables }));
                    }
                    parameters.extend(self.content(record, until)?);
                    if parameters.len() > MOST_PARAMETERS {
                        return Err(Unusable);
                    }
                }
                (Ok(Kind::AbortRequest), Some((id, begin))) => {
                    self.content(record, until)?;
                    self.wire.end(id, b"", Ended::Complete, 1).map_err(|_| Unusable)?;
                    (begun, parameters) = (None, Vec::new());
                    if !begin.keep {
                        return Err(Unusable);
                    }
                }
                (Ok(Kind::BeginRequest | Kind::Stdin), Some(_)) => return Err(Unusable),
                _ => self.other(record, until)?,
            }
        }
    }

    /// Whether the standard input of the request has come to its end; what is left of it is read, for so long.
    pub fn finish(&mut self, until: Deadline) -> bool {
        let mut nowhere = [0; 4 << 10];
        while !self.stdin.ended {
            match self.read(&mut nowhere, until) {
                Some(0) | None => break,
                Some(_) => {}
            }
        }
        self.stdin.ended && !self.wire.is_broken()
    }

    /// Whether the web server has told that nobody waits for the answer any more, as far as it has come.
    pub fn is_aborted(&mut self) -> bool {
        self.finish(Deadline::after(Duration::ZERO));
        while self.stdin.ended && !self.stdin.aborted && self.has_come(Duration::ZERO) == Ok(true) {
            let until = Deadline::after(MEANWHILE);
            match self.header(until) {
                Ok(record) if self.is_abort(record) => self.stdin.aborted = true,
                Ok(record) if self.other(record, until).is_ok() => {}
                // It is seen when something is written.
                _ => return false,
            }
        }
        self.stdin.aborted
    }

    /// Whether something is here, or comes within that time.
    fn has_come(&mut self, within: Duration) -> Result<bool, Unusable> {
        if self.start < self.end {
            return Ok(true);
        }
        // Mostly it is here: read at once, in place of a look and a read.
        match rustix::io::read(self.wire.socket(), &mut self.buffer[..]) {
            Ok(0) => Err(Unusable),
            Ok(count) => {
                (self.start, self.end) = (0, count);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                Ok(!within.is_zero() && is_ready(self.wire.socket(), PollFlags::IN, within))
            }
            Err(_) => Err(Unusable),
        }
    }

    fn is_abort(&self, record: Header) -> bool {
        record.kind == Ok(Kind::AbortRequest) && record.id == self.stdin.id
    }

    fn refuse(&self, id: u16, ended: Ended) -> Result<(), Unusable> {
        self.wire.end(id, b"", ended, 0).map_err(|_| Unusable)
    }

    /// A record that speaks of no request that is served: answered where it speaks of the connection, and ignored otherwise
    /// (section 3.3).
    fn other(&mut self, record: Header, until: Deadline) -> Result<(), Unusable> {
        let content = self.content(record, until)?;
        let mut answer = Vec::new();
        match record.kind {
            Ok(Kind::GetValues) if record.id == NO_REQUEST => {
                push(&mut answer, Kind::GetValuesResult, NO_REQUEST, &values(&content, self.at_once));
            }
            kind if record.id == NO_REQUEST => {
                let kind = kind.map_or_else(|other| other, |known| known as u8);
                push(&mut answer, Kind::UnknownType, NO_REQUEST, &[kind, 0, 0, 0, 0, 0, 0, 0]);
            }
            Ok(Kind::BeginRequest) => return self.refuse(record.id, Ended::CannotMultiplex),
            _ => return Ok(()),
        }
        self.wire.write_records(&answer).map_err(|_| Unusable)
    }

    fn header(&mut self, until: Deadline) -> Result<Header, Unusable> {
        if !self.waited_for_header(until)? {
            return Err(Unusable);
        }
        let bytes = self.buffer[self.start..].first_chunk().expect("they are there");
        let header = Header::of(*bytes).ok_or(Unusable)?;
        self.start += HEADER;
        Ok(header)
    }

    /// A whole record's content, which is not above 64 KiB; its padding is behind us.
    fn content(&mut self, record: Header, until: Deadline) -> Result<Vec<u8>, Unusable> {
        let (length, padding) = (usize::from(record.content), usize::from(record.padding));
        let mut content = vec![0; length + padding];
        let mut filled = 0;
        while filled < content.len() {
            match self.some(&mut content[filled..], until)? {
                Some(0) | None => return Err(Unusable),
                Some(count) => filled += count,
            }
        }
        content.truncate(length);
        Ok(content)
    }

    /// Bytes as they come; `None`: nothing by then.
    fn some(&mut self, into: &mut [u8], until: Deadline) -> Result<Option<usize>, Unusable> {
        if self.start == self.end {
            return received(&self.wire, into, until);
        }
        let count = into.len().min(self.end - self.start);
        into[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(Some(count))
    }

    /// More bytes into the buffer. Whether some came in time.
    fn more(&mut self, until: Deadline) -> Result<bool, Unusable> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match received(&self.wire, &mut self.buffer[self.end..], until)? {
            Some(0) => Err(Unusable),
            Some(count) => {
                self.end += count;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The next bytes of the standard input: 0 at its end.
    fn stdin(&mut self, into: &mut [u8], until: Deadline) -> Result<Option<usize>, Unusable> {
        while self.stdin.content == 0 {
            match (self.stdin.aborted, self.stdin.ended) {
                (true, _) => return Err(Unusable),
                (false, true) => return Ok(Some(0)),
                (false, false) => {}
            }
            let mut padding = [0; u8::MAX as usize];
            while self.stdin.padding > 0 {
                let left = self.stdin.padding;
                match self.some(&mut padding[..left], until)? {
                    Some(0) => return Err(Unusable),
                    Some(count) => self.stdin.padding -= count,
                    None => return Ok(None),
                }
            }
            if !self.waited_for_header(until)? {
                return Ok(None);
            }
            let record = self.header(until)?;
            match record.kind {
                Ok(Kind::Stdin) if record.id == self.stdin.id => {
                    self.stdin.content = record.content.into();
                    self.stdin.padding = record.padding.into();
                    if record.content == 0 {
                        self.content(record, until)?;
                        (self.stdin.ended, self.stdin.padding) = (true, 0);
                    }
                }
                _ if self.is_abort(record) => {
                    self.content(record, until)?;
                    (self.stdin.ended, self.stdin.aborted) = (true, true);
                }
                Ok(Kind::Params | Kind::BeginRequest) if record.id == self.stdin.id => return Err(Unusable),
                _ => self.other(record, until)?,
            }
        }
        let most = into.len().min(self.stdin.content);
        let count = self.some(&mut into[..most], until)?;
        match count {
            Some(0) => Err(Unusable),
            Some(count) => {
                self.stdin.content -= count;
                Ok(Some(count))
            }
            None => Ok(None),
        }
    }

    /// Whether a whole head of a record came in time.
    fn waited_for_header(&mut self, until: Deadline) -> Result<bool, Unusable> {
        while self.end - self.start < HEADER {
            if !self.more(until)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Source for Connection {
    /// Of a web server that has gone, wants no answer any more or speaks no FastCGI nothing comes: what was read may be cut off,
    /// and must not look whole.
    fn read(&mut self, buffer: &mut [u8], deadline: Deadline) -> Option<usize> {
        self.stdin(buffer, deadline).unwrap_or(None)
    }
}

/// Bytes as they come, 0 at the end of the connection; `None`: nothing by then.
fn received(wire: &Wire, into: &mut [u8], until: Deadline) -> Result<Option<usize>, Unusable> {
    let most = into.len().min(MOST_CONTENT);
    loop {
        match rustix::io::read(wire.socket(), &mut into[..most]) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if is_ready(wire.socket(), PollFlags::IN, until.remaining().min(SOON)) => {}
            // Whoever sends slowly, or nothing, must not keep others from being served.
            Err(Errno::AGAIN) if stand_aside().is_err() => return Ok(None),
            Err(Errno::AGAIN) if is_ready(wire.socket(), PollFlags::IN, until.remaining()) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(_) => return Err(Unusable),
        }
    }
}
