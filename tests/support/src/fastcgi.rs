//! A web server's side of FastCGI, by the specification 1.0 and nothing beyond it.
//!
//! What is read is judged as strictly as the specification is written: a record that breaks it fails the test with a
//! message, where a web server would perhaps go on, or answer 502.
//! Of what is sent everything can be chosen, down to single bytes, so that a broken web server can be played as well.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const BEGIN_REQUEST: u8 = 1;
pub const ABORT_REQUEST: u8 = 2;
pub const END_REQUEST: u8 = 3;
pub const PARAMS: u8 = 4;
pub const STDIN: u8 = 5;
pub const STDOUT: u8 = 6;
pub const STDERR: u8 = 7;
pub const DATA: u8 = 8;
pub const GET_VALUES: u8 = 9;
pub const GET_VALUES_RESULT: u8 = 10;
pub const UNKNOWN_TYPE: u8 = 11;

pub const RESPONDER: u16 = 1;

/// What the program says of a request at its end.
pub const REQUEST_COMPLETE: u8 = 0;
pub const CANT_MPX_CONN: u8 = 1;
pub const OVERLOADED: u8 = 2;
pub const UNKNOWN_ROLE: u8 = 3;

/// The largest content of a record.
const LARGEST: usize = 65535;
const HEADER: usize = 8;

/// One record, without its padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub id: u16,
    pub content: Vec<u8>,
}

/// The bytes of a record, padded to a multiple of eight as web servers do it. Larger content than a record can have is a
/// mistake of the test.
pub fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    padded_record(kind, id, content, content.len().wrapping_neg() % 8)
}

/// The same with any padding up to 255.
pub fn padded_record(kind: u8, id: u16, content: &[u8], padding: usize) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("at most 65,535 bytes in a record").to_be_bytes();
    let id = id.to_be_bytes();
    let short = u8::try_from(padding).expect("at most 255 bytes of padding");
    let mut bytes = vec![1, kind, id[0], id[1], length[0], length[1], short, 0];
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

/// A stream in records, without the empty one that ends it.
pub fn stream(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    content.chunks(LARGEST & !7).flat_map(|part| record(kind, id, part)).collect()
}

/// The record that begins a request to a responder. `keep`: the connection stays open behind it.
pub fn begin(id: u16, keep: bool) -> Vec<u8> {
    record(BEGIN_REQUEST, id, &[0, RESPONDER.to_be_bytes()[1], keep.into(), 0, 0, 0, 0, 0])
}

/// Names and values, as in `PARAMS` and `GET_VALUES`.
pub fn pairs<N: AsRef<OsStr>, V: AsRef<OsStr>>(pairs: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        let (name, value) = (name.as_ref().as_bytes(), value.as_ref().as_bytes());
        for length in [name.len(), value.len()] {
            match u8::try_from(length) {
                Ok(short) if short < 128 => bytes.push(short),
                _ => {
                    let long = u32::try_from(length).expect("below 2 GiB") | 1 << 31;
                    bytes.extend_from_slice(&long.to_be_bytes());
                }
            }
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
    }
    bytes
}

/// What [`pairs`] makes, read back.
pub fn read_pairs(mut bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = bytes.split_at_checked(count).ok_or("a name or value is cut off")?;
        *bytes = rest;
        Ok(taken)
    }
    fn length(bytes: &mut &[u8]) -> Result<usize, String> {
        let first = take(bytes, 1)?[0];
        if first < 128 {
            return Ok(first.into());
        }
        let rest = take(bytes, 3)?;
        Ok(u32::from_be_bytes([first & 127, rest[0], rest[1], rest[2]]) as usize)
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (name, value) = (length(&mut bytes)?, length(&mut bytes)?);
        let [name, value] = [take(&mut bytes, name)?, take(&mut bytes, value)?].map(String::from_utf8_lossy);
        found.push((name.into_owned(), value.into_owned()));
    }
    Ok(found)
}

/// A whole request.
pub fn request<N: AsRef<OsStr>, V: AsRef<OsStr>>(
    id: u16,
    keep: bool,
    params: impl IntoIterator<Item = (N, V)>,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = begin(id, keep);
    bytes.extend(stream(PARAMS, id, &pairs(params)));
    bytes.extend(record(PARAMS, id, b""));
    bytes.extend(stream(STDIN, id, body));
    bytes.extend(record(STDIN, id, b""));
    bytes
}

/// A connection to a program that speaks FastCGI, as a web server has it.
pub struct Connection {
    /// Any stream socket: the type only names what can be done with it.
    socket: UnixStream,
    requests: BTreeMap<u16, Request>,
    /// Those that ended while another was waited for.
    ended: BTreeMap<u16, Reply>,
}

/// What has come of one request.
#[derive(Default)]
struct Request {
    reply: Reply,
    aborted: bool,
    stdout_ended: bool,
    stderr_ended: bool,
    /// Seen by others while the request runs.
    stderr: Arc<Mutex<Vec<u8>>>,
}

/// The answer to a request.
#[derive(Debug, Default, Clone)]
pub struct Reply {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The exit status that a CGI process would have had.
    pub status: u32,
    /// [`REQUEST_COMPLETE`], or why the request was not taken.
    pub protocol_status: u8,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum Broken {
    /// The connection ended before the request did; that much had come.
    Ended(Reply),
    /// As where its process is killed. What the web server has not read yet is lost then, over TCP.
    Reset,
    /// No record within the time.
    TimedOut,
    /// Something that the specification does not allow.
    Wrong(String),
}

impl Connection {
    pub fn open(socket: &Path) -> io::Result<Connection> {
        Ok(Connection::over(UnixStream::connect(socket)?))
    }

    pub fn open_tcp(address: std::net::SocketAddr) -> io::Result<Connection> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Connection::over(OwnedFd::from(socket).into()))
    }

    fn over(socket: UnixStream) -> Connection {
        Connection { socket, requests: BTreeMap::new(), ended: BTreeMap::new() }
    }

    /// Another hand that writes to the same connection.
    pub fn writer(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Sends any bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Begins a request, with all of its parameters; the body is left to [`Connection::body`].
    pub fn begin<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        id: u16,
        keep: bool,
        params: impl IntoIterator<Item = (N, V)>,
    ) -> io::Result<()> {
        let mut bytes = begin(id, keep);
        bytes.extend(stream(PARAMS, id, &pairs(params)));
        bytes.extend(record(PARAMS, id, b""));
        self.expect(id);
        self.send(&bytes)
    }

    /// Counts with the answer to a request whose records are sent by hand.
    pub fn expect(&mut self, id: u16) {
        self.requests.insert(id, Request::default());
    }

    /// Sends a part of the body.
    pub fn body(&mut self, id: u16, part: &[u8]) -> io::Result<()> {
        self.send(&stream(STDIN, id, part))
    }

    pub fn end_body(&mut self, id: u16) -> io::Result<()> {
        self.send(&record(STDIN, id, b""))
    }

    pub fn abort(&mut self, id: u16) -> io::Result<()> {
        self.requests.entry(id).or_default().aborted = true;
        self.send(&record(ABORT_REQUEST, id, b""))
    }

    /// A whole request and its answer.
    pub fn ask<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        id: u16,
        keep: bool,
        params: impl IntoIterator<Item = (N, V)>,
        body: &[u8],
    ) -> Reply {
        self.expect(id);
        self.send(&request(id, keep, params, body)).expect("the program reads the request");
        let reply = self.reply(id).unwrap_or_else(|broken| panic!("no answer: {broken:?}"));
        if !keep {
            self.expect_end().unwrap_or_else(|problem| panic!("{problem}"));
        }
        reply
    }

    /// What the program says of itself.
    pub fn get_values(&mut self, names: &[&str]) -> Vec<(String, String)> {
        let asked = pairs(names.iter().map(|name| (name, "")));
        self.send(&record(GET_VALUES, 0, &asked)).expect("the program reads the question");
        let record = self.read().expect("a record").expect("an answer before the end of the connection");
        assert_eq!((record.kind, record.id), (GET_VALUES_RESULT, 0));
        read_pairs(&record.content).expect("names and values")
    }

    /// How long one record may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.socket.set_read_timeout(Some(timeout)).expect("a timeout above zero");
    }

    /// The standard error of a request, up to now.
    pub fn stderr_of(&self, id: u16) -> Arc<Mutex<Vec<u8>>> {
        self.requests.get(&id).map(|request| Arc::clone(&request.stderr)).expect("the request was begun")
    }

    /// The next record; `None` at the end of the connection.
    pub fn read(&mut self) -> Result<Option<Record>, Broken> {
        let mut header = [0; HEADER];
        // On a socket with a time limit this ends, too, where the test is stopped for a moment (signal(7)).
        let first = loop {
            match self.socket.read(&mut header) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.map_err(Broken::of)?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.socket.read_exact(&mut header[first..]).map_err(Broken::of)?;
        let [version, kind, id1, id0, length1, length0, padding, _] = header;
        if version != 1 {
            return Err(Broken::Wrong(format!("a record of version {version}: {header:?}")));
        }
        let length = usize::from(u16::from_be_bytes([length1, length0]));
        let mut content = vec![0; length + usize::from(padding)];
        self.socket.read_exact(&mut content).map_err(Broken::of)?;
        content.truncate(length);
        Ok(Some(Record { kind, id: u16::from_be_bytes([id1, id0]), content }))
    }

    /// Reads up to the end of this request; records of others that are under way are kept for them.
    pub fn reply(&mut self, id: u16) -> Result<Reply, Broken> {
        loop {
            if let Some(reply) = self.ended.remove(&id) {
                return Ok(reply);
            }
            let Some(record) = self.read()? else {
                let request = self.requests.remove(&id).unwrap_or_default();
                return Err(Broken::Ended(request.reply));
            };
            let of = record.id;
            if self.take(record).map_err(Broken::Wrong)? {
                let request = self.requests.remove(&of).expect("it was just taken");
                self.ended.insert(of, request.reply);
            }
        }
    }

    /// Behind a request without `keep` the program closes the connection. It sends nothing more before, and has read the
    /// body to its end, so that what it has sent is not lost by a reset.
    pub fn expect_end(&mut self) -> Result<(), String> {
        match self.read() {
            Ok(None) => Ok(()),
            Ok(Some(record)) => Err(format!("a record behind the end of the last request: {record:?}")),
            Err(broken) => Err(format!("no clean end of the connection behind the request: {broken:?}")),
        }
    }

    /// True where the record ends its request.
    fn take(&mut self, record: Record) -> Result<bool, String> {
        let Record { kind, id, content } = record;
        let request = self
            .requests
            .get_mut(&id)
            .ok_or_else(|| format!("a record of type {kind} for request {id}, which is not under way"))?;
        let (ended, bytes) = match kind {
            STDOUT => (&mut request.stdout_ended, &mut request.reply.stdout),
            STDERR => (&mut request.stderr_ended, &mut request.reply.stderr),
            END_REQUEST => return request.end(&content).map(|()| true),
            _ => return Err(format!("a record of type {kind}, which programs do not send for a request")),
        };
        if *ended {
            return Err(format!("a record of type {kind} behind the end of its stream"));
        }
        *ended = content.is_empty();
        bytes.extend_from_slice(&content);
        if kind == STDERR {
            request.stderr.lock().expect("nobody panics with it").extend_from_slice(&content);
        }
        Ok(false)
    }

    pub fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Request {
    fn end(&mut self, content: &[u8]) -> Result<(), String> {
        let [s3, s2, s1, s0, protocol_status, _, _, _] = content[..] else {
            return Err(format!("the end of a request has {} bytes and not 8", content.len()));
        };
        if protocol_status > UNKNOWN_ROLE {
            return Err(format!("protocol status {protocol_status}"));
        }
        // A stream that was begun is ended, unless the web server has given it up.
        let open = |ended: bool, bytes: &[u8]| !ended && !bytes.is_empty() && !self.aborted;
        if open(self.stdout_ended, &self.reply.stdout) || open(self.stderr_ended, &self.reply.stderr) {
            return Err("the request ends before its streams".into());
        }
        self.reply.status = u32::from_be_bytes([s3, s2, s1, s0]);
        self.reply.protocol_status = protocol_status;
        Ok(())
    }
}

impl Broken {
    fn of(error: io::Error) -> Broken {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Broken::TimedOut,
            ErrorKind::UnexpectedEof => Broken::Wrong("the connection ends within a record".into()),
            ErrorKind::ConnectionReset => Broken::Reset,
            _ => Broken::Wrong(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that answers with these bytes, and what a web server makes of them.
    fn reply_to(bytes: &[u8]) -> Result<Reply, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::over(ours);
        connection.expect(1);
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        let reply = connection.reply(1).map_err(|broken| format!("{broken:?}"))?;
        connection.expect_end().map(|()| reply)
    }

    fn end(status: u8, protocol_status: u8) -> Vec<u8> {
        record(END_REQUEST, 1, &[0, 0, 0, status, protocol_status, 0, 0, 0])
    }

    #[test]
    fn names_and_values_are_read_as_they_are_written() {
        let long = "x".repeat(200);
        let written = pairs([("A", ""), ("QUERY_STRING", &long), (&long, "я")]);
        assert_eq!(&written[..4], [1, 0, b'A', 12]);
        assert_eq!(&written[4..8], [128, 0, 0, 200]);
        let read = read_pairs(&written).unwrap();
        assert_eq!(read[1], ("QUERY_STRING".to_owned(), long.clone()));
        assert_eq!(read[2], (long, "я".to_owned()));
        assert!(read_pairs(&written[..20]).is_err());
    }

    #[test]
    fn an_answer_is_two_streams_and_an_end() {
        let bytes = [
            padded_record(STDOUT, 1, b"Content-Type: a/b\n\n", 255),
            record(STDERR, 1, b"noise"),
            record(STDOUT, 1, b"body"),
            record(STDERR, 1, b""),
            record(STDOUT, 1, b""),
            end(3, REQUEST_COMPLETE),
        ];
        let reply = reply_to(&bytes.concat()).unwrap();
        assert_eq!(reply.stdout, b"Content-Type: a/b\n\nbody");
        assert_eq!((&reply.stderr[..], reply.status), (&b"noise"[..], 3));
    }

    #[test]
    fn what_breaks_the_specification_is_named() {
        let out = record(STDOUT, 1, b"X: 1\n\n");
        let out_end = record(STDOUT, 1, b"");
        for (bytes, problem) in [
            (vec![out.clone(), out_end.clone()], "Ended(Reply"),
            (vec![out.clone(), end(0, 0)], "ends before its streams"),
            (vec![out.clone(), out_end.clone(), out.clone()], "behind the end of its stream"),
            (vec![out.clone(), out_end.clone(), end(0, 0), out.clone()], "behind the end of the last request"),
            (vec![record(STDOUT, 2, b"x")], "request 2, which is not under way"),
            (vec![record(STDIN, 1, b"x")], "type 5"),
            (vec![record(END_REQUEST, 1, b"short")], "5 bytes and not 8"),
            (vec![end(0, 9)], "protocol status 9"),
            (vec![vec![9; 8]], "version 9"),
            (vec![out[..12].to_vec()], "within a record"),
        ] {
            let said = reply_to(&bytes.concat()).expect_err(problem);
            assert!(said.contains(problem), "{said}");
        }
    }

    #[test]
    fn records_of_two_requests_on_one_connection_are_told_apart() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::over(ours);
        connection.expect(1);
        connection.expect(700);
        let end_of = |id| record(END_REQUEST, id, &[0; 8]);
        for id in [700, 1] {
            theirs.write_all(&record(STDOUT, id, &id.to_be_bytes())).unwrap();
        }
        for id in [1, 700] {
            theirs.write_all(&[record(STDOUT, id, b""), end_of(id)].concat()).unwrap();
        }
        assert_eq!(connection.reply(1).unwrap().stdout, [0, 1]);
        assert_eq!(connection.reply(700).unwrap().stdout, 700u16.to_be_bytes());
    }

    #[test]
    fn a_stream_is_cut_into_records() {
        let bytes = stream(STDIN, 1, &vec![b'x'; 200_000]);
        assert_eq!(bytes.len(), 200_000 + 4 * HEADER);
        assert!(stream(STDIN, 1, b"").is_empty());
    }
}
