//! The CGI boundary (RFC 3875): the environment and the request body as they come, and the answer as it goes.
//!
//! [`cgi::handle`] parses and writes, but it panics on variables that are not UTF-8, on some addresses and
//! protocols, on truncated bodies and when the client has gone, and it allocates whatever `CONTENT_LENGTH` says.
//! So the environment is taken first ([`Environment::take`]) and `cgi` is left only variables that it can digest;
//! the body is read here, bounded in size and time; and a panic hook ends the process quietly when the client is
//! gone and with a proper answer otherwise.

use crate::system::clock::Deadline;
use crate::system::log::Log;
use crate::values::answer::Answer;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::ffi::OsString;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// How long a refused request's body is read, so that fcgiwrap does not turn the early answer into 502.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The CGI meta-variables, taken out of the process's own environment.
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Takes all variables and removes them from the process, so that nothing in it (a proxy from a request header,
    /// `HTTP_PROXY`; what `cgi` cannot digest) acts behind our back. Must run before any thread does.
    pub fn take() -> Environment {
        let variables: Vec<_> = std::env::vars_os().collect();
        for (name, _) in &variables {
            // One such as Windows's `=C:` cannot be removed.
            if !name.as_encoded_bytes().contains(&b'=') {
                std::env::remove_var(name);
            }
        }
        Environment(variables)
    }

    #[cfg(test)]
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Environment {
        Environment(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    pub fn os(&self, name: &str) -> Option<&OsString> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The value, where it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.os(name)?.to_str()
    }

    /// The value's bytes; empty where there is none.
    pub fn bytes(&self, name: &str) -> &[u8] {
        self.os(name).map_or(b"", |value| value.as_encoded_bytes())
    }

    pub fn method(&self) -> &str {
        self.text("REQUEST_METHOD").unwrap_or("")
    }
}

/// What `CONTENT_LENGTH` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Bytes(u64),
    /// No length: a chunked body is read to its end, a request without one has no body.
    ToEnd,
    None,
    Invalid,
}

impl Length {
    pub fn of(environment: &Environment) -> Length {
        match environment.bytes("CONTENT_LENGTH") {
            b"" if matches!(environment.method(), "GET" | "HEAD" | "OPTIONS")
                && environment.bytes("HTTP_TRANSFER_ENCODING").is_empty() =>
            {
                Length::None
            }
            b"" => Length::ToEnd,
            digits => match std::str::from_utf8(digits) {
                Ok(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                    text.parse().map_or(Length::Invalid, Length::Bytes)
                }
                _ => Length::Invalid,
            },
        }
    }
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// Fewer bytes than announced.
    Truncated,
    TimedOut,
    InvalidLength,
}

/// The request body, not read yet.
pub struct Body {
    length: Length,
    consumed: u64,
    ended: bool,
}

impl Body {
    pub fn of(environment: &Environment) -> Body {
        let length = Length::of(environment);
        Body { length, consumed: 0, ended: matches!(length, Length::None | Length::Bytes(0)) }
    }

    /// Whether the announced length is above `limit`; known without reading.
    pub fn check_announced(&self, limit: u64) -> Result<(), BodyError> {
        match self.length {
            Length::Bytes(length) if length > limit => Err(BodyError::TooLarge),
            Length::Invalid => Err(BodyError::InvalidLength),
            _ => Ok(()),
        }
    }

    /// The whole body, at most `limit` bytes. Memory grows with what arrives, not with what was announced.
    pub fn read(&mut self, limit: u64, deadline: Deadline) -> Result<Vec<u8>, BodyError> {
        self.check_announced(limit)?;
        let mut bytes = Vec::new();
        if let Length::Bytes(length) = self.length {
            // Room, so that nothing is copied as it grows; not memory, which comes with what is written.
            let _ = bytes.try_reserve_exact(usize::try_from(length).unwrap_or(0));
        }
        while !self.ended {
            let so_far = bytes.len() as u64;
            let wanted = match self.length {
                Length::Bytes(length) => length - so_far,
                _ => limit + 1 - so_far,
            };
            let before = bytes.len();
            bytes.resize(before + usize::try_from(wanted.min(64 << 10)).unwrap_or(0), 0);
            let count = self.read_some(&mut bytes[before..], deadline)?;
            bytes.truncate(before + count);
            let total = bytes.len() as u64;
            match self.length {
                Length::Bytes(length) if count == 0 && total < length => return Err(BodyError::Truncated),
                Length::Bytes(length) => self.ended |= total == length,
                _ if total > limit => return Err(BodyError::TooLarge),
                _ => {}
            }
        }
        Ok(bytes)
    }

    /// Reads and forgets what is left: at most `limit` bytes in all and ten seconds.
    pub fn drain(&mut self, limit: u64) {
        let deadline = Deadline::after(DRAIN_TIME);
        let announced = match self.length {
            Length::Bytes(length) => length.min(limit),
            Length::ToEnd => limit,
            Length::None => 0,
            Length::Invalid => limit,
        };
        let mut buffer = Vec::new();
        while !self.ended && self.consumed < announced {
            buffer.resize(16 << 10, 0);
            let wanted = usize::try_from(announced - self.consumed).unwrap_or(buffer.len()).min(buffer.len());
            if self.read_some(&mut buffer[..wanted], deadline).is_err() {
                return;
            }
        }
    }

    /// Reads what is there, waiting for it until the deadline. 0 = the end.
    fn read_some(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, BodyError> {
        let stdin = std::io::stdin();
        loop {
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                return Err(BodyError::TimedOut);
            }
            let timeout = Timespec { tv_sec: remaining.as_secs() as i64, tv_nsec: remaining.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                _ => {}
            }
            // Unbuffered, so that `poll` sees what was not read.
            match rustix::io::read(&stdin, &mut *buffer) {
                Ok(count) => {
                    self.consumed += count as u64;
                    self.ended |= count == 0;
                    return Ok(count);
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                // A connection reset by the client reads as its end.
                Err(_) => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
    }
}

/// Runs `respond` and writes its answer as a CGI response. Returns when the answer is written; a client that has gone
/// away ends the process without a word.
pub fn answer_once(log: &Arc<Log>, head_only: bool, respond: impl FnOnce() -> Answer) {
    let answered = Arc::new(AtomicBool::new(false));
    install_panic_hook(log.clone(), answered.clone());
    // What is left for `cgi` to parse: the parts of a request that nobody else sent.
    std::env::set_var("REQUEST_METHOD", "GET");
    std::env::set_var("REQUEST_URI", "/");
    cgi::handle(|_request: cgi::Request| {
        let answer = respond();
        answered.store(true, Ordering::SeqCst);
        to_response(answer, head_only, &log.request_id)
    });
}

fn to_response(answer: Answer, head_only: bool, request_id: &str) -> cgi::Response {
    let mut response = cgi::http::Response::builder()
        .status(answer.status)
        .header("Content-Type", answer.content_type)
        .header("X-Request-Id", request_id)
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff");
    for (name, value) in answer.headers {
        // `cgi` unwraps `to_str`, so only what passes it goes out.
        if let Ok(value) = cgi::http::HeaderValue::from_str(&value) {
            if value.to_str().is_ok() {
                response = response.header(name, value);
            }
        }
    }
    // RFC 3875, section 4.3.2: no body in the answer to HEAD.
    let body = if head_only { Vec::new() } else { answer.body };
    if !matches!(answer.status, 204 | 304) && !head_only {
        response = response.header("Content-Length", body.len());
    }
    response.body(body).unwrap_or_else(|_| cgi::empty_response(500))
}

/// `cgi` unwraps its write: when the client has gone, that panic is not worth a word. Any other panic is a defect in
/// this program; it is logged and answered like every failure.
fn install_panic_hook(log: Arc<Log>, answered: Arc<AtomicBool>) {
    std::panic::set_hook(Box::new(move |panic| {
        if answered.load(Ordering::SeqCst) {
            std::process::exit(0);
        }
        let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        log.error(&format!("internal error at {place}; please report it"));
        let body = format!(
            "{{\"success\":false,\"error\":\"Internal error of b24proxy: the web server's error log says where.\",\
             \"code\":500,\"error_code\":\"configuration_error\",\"request_id\":\"{}\"}}",
            log.request_id
        );
        let head = "Status: 500 Internal Server Error\nContent-Type: application/json; charset=utf-8\n\
                    Cache-Control: no-store\nX-Content-Type-Options: nosniff\n";
        let _ = write!(std::io::stdout(), "{head}X-Request-Id: {}\n\n{body}", log.request_id);
        let _ = std::io::stdout().flush();
        std::process::exit(0);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_or_nothing() {
        let length = |pairs: &[(&str, &str)]| Length::of(&Environment::from_pairs(pairs));
        assert_eq!(length(&[("CONTENT_LENGTH", "12")]), Length::Bytes(12));
        assert_eq!(length(&[("CONTENT_LENGTH", "+12")]), Length::Invalid);
        assert_eq!(length(&[("CONTENT_LENGTH", "-1")]), Length::Invalid);
        assert_eq!(length(&[("CONTENT_LENGTH", "99999999999999999999999")]), Length::Invalid);
        assert_eq!(length(&[("REQUEST_METHOD", "POST")]), Length::ToEnd);
        assert_eq!(length(&[("REQUEST_METHOD", "GET")]), Length::None);
        assert_eq!(length(&[("REQUEST_METHOD", "GET"), ("HTTP_TRANSFER_ENCODING", "chunked")]), Length::ToEnd);
    }

    #[test]
    fn a_header_that_could_split_the_answer_is_left_out() {
        let answer = Answer::json(200, "{}").with("X-Bad", "a\nSet-Cookie: x").with("X-Good", "b");
        let response = to_response(answer, false, "r");
        assert!(response.headers().get("X-Bad").is_none());
        assert_eq!(response.headers()["X-Good"], "b");
    }
}
