//! HTTP/1.1 messages on a stream: reading requests, writing (or deliberately spoiling) answers.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::Duration;

use crate::files::{Content, Moved};
use crate::params::percent_decode;

const MAX_HEAD: usize = 256 * 1024;
const MAX_BODY: usize = 100 * 1024 * 1024;
/// How much of a file is read and sent at a time.
const PIECE: usize = 64 * 1024;

#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// As sent: path and query.
    pub(crate) target: String,
    /// Decoded, with single slashes and without `.` and `..`, as nginx passes it on.
    pub(crate) path: String,
    /// As sent, without the `?`.
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|v| v.to_ascii_lowercase().contains("close"))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// A stored file's, in place of `body`.
    pub(crate) piece: Option<Piece>,
    pub(crate) delivery: Delivery,
}

/// Part of a stored file, read as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) content: Content,
    pub(crate) range: Range<u64>,
    /// Counts what the connection has taken.
    pub(crate) sent: Moved,
}

/// How long something takes that takes long on purpose.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wait {
    For(Duration),
    /// Until what hangs is released.
    Release,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Delivery {
    Whole,
    Chunked,
    /// The connection is closed without a byte.
    Nothing,
    /// The head and half of the body, then the connection is closed.
    Half,
    /// The head and so many bytes of the body, then the connection is closed.
    Cut(u64),
    /// So many bytes of the body, and the rest later.
    Pause {
        after: u64,
        wait: Wait,
    },
    /// Everything, head included, in pieces.
    Slow {
        interval: Duration,
        chunk: usize,
    },
    /// A JSON answer with that many bytes of filling in `result`, produced while sending.
    Padded(u64),
    /// These bytes instead of an answer.
    Raw(Vec<u8>),
}

impl Reply {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: body.into(),
            piece: None,
            delivery: Delivery::Whole,
        }
    }

    pub(crate) fn length(&self) -> u64 {
        match &self.piece {
            Some(Piece { range, .. }) => range.end - range.start,
            None => self.body.len() as u64,
        }
    }

    /// Only the first half, as a complete answer.
    pub(crate) fn halve(&mut self) {
        self.body.truncate(self.body.len() / 2);
        if let Some(Piece { range, .. }) = &mut self.piece {
            range.end = range.start + (range.end - range.start) / 2;
        }
    }

    fn write(&self, stream: &mut impl Write, part: Range<u64>) -> io::Result<()> {
        self.in_pieces(part, PIECE, |piece| stream.write_all(piece))
    }

    /// Gives this part of the body on, at most `size` bytes at a time.
    fn in_pieces(
        &self,
        part: Range<u64>,
        size: usize,
        mut give: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(Piece { content, range, sent }) = &self.piece else {
            return self.body[part.start as usize..part.end as usize].chunks(size).try_for_each(give);
        };
        let mut reader = content.reader_of(range.start + part.start..range.start + part.end);
        let mut piece = vec![0; size];
        loop {
            let read = reader.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            give(&piece[..read])?;
            sent.add(read);
        }
    }

    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply::new(status, "application/json; charset=utf-8", body)
    }

    pub(crate) fn html(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply::new(status, "text/html; charset=utf-8", body)
    }

    pub(crate) fn redirect(location: &str) -> Reply {
        let mut reply = Reply::html(302, "<html><body>302 Found</body></html>");
        reply.headers.push(("Location".to_owned(), location.to_owned()));
        reply
    }

    pub(crate) fn nothing() -> Reply {
        Reply { delivery: Delivery::Nothing, ..Reply::html(0, "") }
    }

    /// Whether a client that has received it all has an answer.
    pub(crate) fn is_complete(&self) -> bool {
        !matches!(self.delivery, Delivery::Nothing | Delivery::Half | Delivery::Cut(_) | Delivery::Raw(_))
    }

    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

pub(crate) enum Received {
    /// A head; the body is still to be read.
    Head(Request, Length),
    /// What came is not HTTP or too large: answer this status and close.
    Bad(u16),
    Closed,
}

/// How a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Length {
    Bytes(u64),
    Chunked,
}

/// Reads a request up to its body; `buffer` holds what was read beyond it.
pub(crate) fn read_head(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Received> {
    let head_end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > MAX_HEAD {
            return Ok(Received::Bad(431));
        }
        if fill(stream, buffer)? == 0 {
            return Ok(Received::Closed);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end + 4);
    let Some(request) = parse_head(&head) else {
        return Ok(Received::Bad(400));
    };
    let chunked = request.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked"));
    let length = match request.header("content-length") {
        _ if chunked => Length::Chunked,
        None => Length::Bytes(0),
        Some(length) => match length.trim().parse() {
            Ok(length) => Length::Bytes(length),
            Err(_) => return Ok(Received::Bad(400)),
        },
    };
    Ok(Received::Head(request, length))
}

/// A request's body, read as it is asked for.
pub(crate) struct Body<'a, S> {
    stream: &'a mut S,
    buffer: &'a mut Vec<u8>,
    left: Left,
    /// `100 Continue` is still to be said.
    expected: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Left {
    Bytes(u64),
    /// Of a chunk, without the line's end behind it.
    Chunk(u64),
    NextChunk,
    Nothing,
}

impl<'a, S: Read + Write> Body<'a, S> {
    pub(crate) fn new(stream: &'a mut S, buffer: &'a mut Vec<u8>, request: &Request, length: Length) -> Body<'a, S> {
        let left = match length {
            Length::Bytes(0) => Left::Nothing,
            Length::Bytes(length) => Left::Bytes(length),
            Length::Chunked => Left::NextChunk,
        };
        let expected = request.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue"));
        Body { stream, buffer, left, expected }
    }

    pub(crate) fn is_read(&self) -> bool {
        self.left == Left::Nothing
    }

    /// All of it, or the status that refuses it; `None` where the client has closed.
    pub(crate) fn whole(&mut self) -> io::Result<Option<Result<Vec<u8>, u16>>> {
        let too_large = |length: u64| length > MAX_BODY as u64;
        if matches!(self.left, Left::Bytes(length) if too_large(length)) {
            return Ok(Some(Err(413)));
        }
        let mut bytes = Vec::new();
        match self.take(MAX_BODY as u64 + 1).read_to_end(&mut bytes) {
            Ok(_) if too_large(bytes.len() as u64) => Ok(Some(Err(413))),
            Ok(_) => Ok(Some(Ok(bytes))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Err(400))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// At most `limit` bytes, which are still to come.
    fn some(&mut self, out: &mut [u8], limit: u64) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        if self.buffer.is_empty() {
            let read = self.stream.read(&mut out[..most])?;
            return if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) };
        }
        let read = most.min(self.buffer.len());
        out[..read].copy_from_slice(&self.buffer[..read]);
        self.buffer.drain(..read);
        Ok(read)
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if fill(self.stream, self.buffer)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// What follows a chunk: the next one, or the trailers up to the empty line.
    fn next_chunk(&mut self) -> io::Result<Left> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size > 0 {
            return Ok(Left::Chunk(size));
        }
        while !self.line()?.is_empty() {}
        Ok(Left::Nothing)
    }
}

impl<S: Read + Write> Read for Body<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if std::mem::take(&mut self.expected) && !self.is_read() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.stream.flush()?;
        }
        loop {
            match self.left {
                Left::Nothing => return Ok(0),
                Left::Bytes(left) => {
                    let read = self.some(out, left)?;
                    let left = left - read as u64;
                    self.left = if left == 0 { Left::Nothing } else { Left::Bytes(left) };
                    return Ok(read);
                }
                Left::Chunk(0) => {
                    if !self.line()?.is_empty() {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    self.left = Left::NextChunk;
                }
                Left::Chunk(left) => {
                    let read = self.some(out, left)?;
                    self.left = Left::Chunk(left - read as u64);
                    return Ok(read);
                }
                Left::NextChunk => self.left = self.next_chunk()?,
            }
        }
    }
}

fn parse_head(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    if !first.next()?.starts_with("HTTP/1.") || !target.starts_with('/') {
        return None;
    }
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        })
        .collect::<Option<Vec<_>>>()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request { method, path: normal_path(path), query: query.to_owned(), headers, body: Vec::new(), target })
}

fn normal_path(path: &str) -> String {
    let decoded = percent_decode(path.as_bytes(), false);
    let mut parts = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 16 * 1024];
    let read = stream.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// Writes the answer; `false` means the connection is to be closed without ceremony. `wait` says whether to go on.
pub(crate) fn write_reply(
    stream: &mut impl Write,
    reply: &Reply,
    head_only: bool,
    close: bool,
    wait: &dyn Fn(&Wait) -> bool,
) -> io::Result<bool> {
    let bodiless = matches!(reply.status, 204 | 304);
    let length = reply.length();
    let framing = if bodiless { Framing::None } else { Framing::Length(length) };
    let sent = if head_only || bodiless { 0 } else { length };
    match &reply.delivery {
        Delivery::Nothing => return Ok(false),
        Delivery::Raw(bytes) => {
            stream.write_all(bytes)?;
            stream.flush()?;
            return Ok(false);
        }
        Delivery::Whole => {
            let mut message = head(reply, framing, close);
            if reply.piece.is_none() {
                message.extend_from_slice(&reply.body[..sent as usize]);
                stream.write_all(&message)?;
            } else {
                stream.write_all(&message)?;
                reply.write(stream, 0..sent)?;
            }
        }
        Delivery::Chunked => {
            stream.write_all(&head(reply, Framing::Chunked, close))?;
            let size = if reply.piece.is_some() { PIECE } else { 1000 };
            reply.in_pieces(0..sent, size, |piece| {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")
            })?;
            if !head_only {
                stream.write_all(b"0\r\n\r\n")?;
            }
        }
        Delivery::Cut(_) | Delivery::Half => {
            let most = if let Delivery::Cut(bytes) = reply.delivery { bytes } else { length / 2 };
            stream.write_all(&head(reply, framing, close))?;
            reply.write(stream, 0..sent.min(most))?;
            stream.flush()?;
            return Ok(false);
        }
        Delivery::Pause { after, wait: how_long } => {
            let after = sent.min(*after);
            stream.write_all(&head(reply, framing, close))?;
            reply.write(stream, 0..after)?;
            stream.flush()?;
            if !wait(how_long) {
                return Ok(false);
            }
            reply.write(stream, after..sent)?;
        }
        Delivery::Slow { interval, chunk } => {
            let interval = Wait::For(*interval);
            let mut slowly = |piece: &[u8]| {
                stream.write_all(piece)?;
                stream.flush()?;
                if wait(&interval) {
                    Ok(())
                } else {
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
            };
            let chunk = (*chunk).max(1);
            for piece in head(reply, framing, close).chunks(chunk) {
                slowly(piece)?;
            }
            reply.in_pieces(0..sent, chunk, slowly)?;
        }
        Delivery::Padded(size) => write_padded(stream, reply, *size, close)?,
    }
    stream.flush()?;
    Ok(!close)
}

fn write_padded(stream: &mut impl Write, reply: &Reply, size: u64, close: bool) -> io::Result<()> {
    let (before, after) = (b"{\"result\":\"", b"\"}");
    let length = size + (before.len() + after.len()) as u64;
    stream.write_all(&head(reply, Framing::Length(length), close))?;
    stream.write_all(before)?;
    let piece = [b'x'; 16 * 1024];
    let mut left = size;
    while left > 0 {
        let n = left.min(piece.len() as u64);
        stream.write_all(&piece[..n as usize])?;
        left -= n;
    }
    stream.write_all(after)
}

enum Framing {
    Length(u64),
    Chunked,
    None,
}

fn head(reply: &Reply, framing: Framing, close: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} {}\r\nServer: nginx\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match framing {
        Framing::Length(length) => text.push_str(&format!("Content-Length: {length}\r\n")),
        Framing::Chunked => text.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::None => {}
    }
    text.push_str(if close { "Connection: close\r\n\r\n" } else { "Connection: keep-alive\r\n\r\n" });
    text.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Status 0 is a client that has closed.
    fn read(text: &str) -> Result<Request, u16> {
        let mut stream = Cursor::new(text.as_bytes().to_vec());
        let mut buffer = Vec::new();
        match read_head(&mut stream, &mut buffer).expect("a cursor does not fail") {
            Received::Bad(status) => Err(status),
            Received::Closed => Err(0),
            Received::Head(request, length) => {
                let mut body = Body::new(&mut stream, &mut buffer, &request, length);
                let body = body.whole().expect("a cursor does not fail").unwrap_or(Err(0))?;
                Ok(Request { body, ..request })
            }
        }
    }

    #[test]
    fn chunked_bodies_are_put_together() {
        let request = read(
            "POST /rest//x/../profile?a=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
             3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
        )
        .expect("a request");
        assert_eq!(request.body, b"abc0123456789");
        assert_eq!((request.path.as_str(), request.query.as_str()), ("/rest/profile", "a=1"));
    }

    #[test]
    fn what_is_too_large_or_not_http_is_refused() {
        let refused = |text| read(text).expect_err("no request");
        assert_eq!(refused("nonsense\r\n\r\n"), 400);
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: 104857601\r\n\r\n"), 413);
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"), 0);
        assert_eq!(refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"), 400);
        assert_eq!(refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab"), 0);
    }
}
