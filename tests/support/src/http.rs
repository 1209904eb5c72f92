//! A small HTTP/1.1 client that sends what it is told, however wrong, and reads
//! whatever comes back.
//!
//! An answer may come before the request has been sent in full (413, 401): the
//! body is written by a thread of its own, and what the server no longer wants
//! to read is no error.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How long a request may take unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// In the order and case in which they came.
    pub headers: Vec<(String, String)>,
    /// Without the chunked coding, should there have been one.
    pub body: Vec<u8>,
    /// From connecting to the last byte.
    pub elapsed: Duration,
}

impl Answer {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        crate::header(&self.headers, name)
    }

    pub fn json(&self) -> serde_json::Value {
        crate::json(&self.body)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

enum Body {
    None,
    WithLength(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
}

/// A request to be sent. `Host`, `Connection: close` and the length of the body
/// are added unless they were given.
#[must_use]
pub struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Body,
    timeout: Duration,
}

impl Request {
    /// `target` is the path with its query, sent as it is.
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Request {
        Request {
            address,
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: Body::None,
            timeout: TIMEOUT,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn bearer(self, token: &str) -> Request {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = Body::WithLength(body.into());
        self
    }

    /// A JSON body with its content type.
    pub fn json(self, json: impl Into<Vec<u8>>) -> Request {
        self.header("Content-Type", "application/json").body(json)
    }

    /// A body without a length, in these chunks.
    pub fn chunked<C: AsRef<[u8]>>(mut self, chunks: &[C]) -> Request {
        self.body = Body::Chunked(chunks.iter().map(|c| c.as_ref().to_vec()).collect());
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = timeout;
        self
    }

    /// Sends it and reads the answer; panics where there is none.
    pub fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.target);
        self.try_send().unwrap_or_else(|error| panic!("no answer to {what}: {error}"))
    }

    /// Sends it and reads the answer.
    pub fn try_send(self) -> io::Result<Answer> {
        let mut connection = Connection::open(self.address, self.timeout)?;
        let mut writer = connection.stream.try_clone()?;
        let bytes = self.bytes();
        let sending = thread::spawn(move || writer.write_all(&bytes));
        let answer = connection.read_answer(&self.method);
        let _ = connection.stream.shutdown(Shutdown::Both);
        let _ = sending.join();
        answer
    }

    /// The request as it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let given = |name: &str| crate::header(&self.headers, name).is_some();
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !given("Host") {
            let _ = write!(head, "Host: {}\r\n", self.address);
        }
        if !given("Connection") {
            head.push_str("Connection: close\r\n");
        }
        match &self.body {
            Body::WithLength(body) if !given("Content-Length") => {
                let _ = write!(head, "Content-Length: {}\r\n", body.len());
            }
            Body::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
            _ => {}
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");

        let mut bytes = head.into_bytes();
        match &self.body {
            Body::None => {}
            Body::WithLength(body) => bytes.extend_from_slice(body),
            Body::Chunked(chunks) => {
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    bytes.extend_from_slice(&self::chunk(chunk));
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

/// One chunk of a chunked body, for tests that send it piece by piece.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// Sends bytes as they are, ends the sending side, and returns all that comes back.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = Connection::open(address, TIMEOUT)?;
    connection.send(bytes)?;
    connection.stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    connection.reader.read_to_end(&mut answer)?;
    Ok(answer)
}

/// An open connection, for tests that trickle a request or go away in the middle.
/// Dropping it closes it.
pub struct Connection {
    stream: TcpStream,
    reader: BufReader<Deadline>,
    opened: Instant,
}

impl Connection {
    /// `timeout` bounds everything that is read on this connection.
    pub fn open(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let opened = Instant::now();
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        let reader = BufReader::new(Deadline { stream: stream.try_clone()?, until: opened + timeout });
        Ok(Connection { stream, reader, opened })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer to a request with this method.
    pub fn read_answer(&mut self, method: &str) -> io::Result<Answer> {
        let (status, headers) = loop {
            let (status, headers) = read_head(&mut self.reader)?;
            if status >= 200 {
                break (status, headers);
            }
        };
        let body = if method == "HEAD" || status == 204 || status == 304 {
            Vec::new()
        } else {
            read_body(&mut self.reader, &headers)?
        };
        Ok(Answer { status, headers, body, elapsed: self.opened.elapsed() })
    }
}

/// A stream that is read until a moment, however many reads that takes.
struct Deadline {
    stream: TcpStream,
    until: Instant,
}

impl Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the time is up"));
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

type Head = (u16, Vec<(String, String)>);

fn read_head(reader: &mut impl BufRead) -> io::Result<Head> {
    let status_line = read_line(reader)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| bad(format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("not a header: {line:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let coding = crate::header(headers, "Transfer-Encoding");
    if coding.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        while read_chunk(reader, &mut body)? {}
        while !read_line(reader)?.is_empty() {}
    } else if let Some(length) = crate::header(headers, "Content-Length") {
        let length = length.parse().map_err(|_| bad(format!("not a length: {length:?}")))?;
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// False at the last chunk, the empty one.
fn read_chunk(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<bool> {
    let line = read_line(reader)?;
    let size = line.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(size, 16).map_err(|_| bad(format!("not the size of a chunk: {line:?}")))?;
    if size == 0 {
        return Ok(false);
    }
    let start = body.len();
    body.resize(start + size, 0);
    reader.read_exact(&mut body[start..])?;
    match read_line(reader)?.as_str() {
        "" => Ok(true),
        more => Err(bad(format!("a chunk is longer than it says: {more:?}"))),
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn bad(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
