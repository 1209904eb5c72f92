//! A request as it is served, whoever brought it: its variables (RFC 3875, section 4.1), its body, which is still to be
//! read, and when it began.

use super::encoding::{unpacked, Encoding, ENOUGH};
use crate::system::clock::Deadline;
use std::ffi::OsString;
use std::io::{BufReader, ErrorKind, Read};
use std::time::Instant;

pub struct Request<'a> {
    pub variables: Variables,
    pub body: Body<'a>,
    pub started: Instant,
}

/// The CGI meta-variables.
pub struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    pub fn new(pairs: Vec<(OsString, OsString)>) -> Variables {
        Variables(pairs)
    }

    #[cfg(test)]
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Variables {
        Variables(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    pub fn os(&self, name: &str) -> Option<&OsString> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The values of each variable of that name: a web server may pass one for each header.
    pub fn all<'v>(&'v self, name: &'v str) -> impl Iterator<Item = &'v [u8]> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_encoded_bytes())
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
enum Length {
    Bytes(u64),
    /// No length: a chunked body is read to its end, a request without one has no body.
    ToEnd,
    None,
    Invalid,
}

impl Length {
    fn of(variables: &Variables) -> Length {
        match variables.bytes("CONTENT_LENGTH") {
            b"" if matches!(variables.method(), "GET" | "HEAD" | "OPTIONS")
                && variables.bytes("HTTP_TRANSFER_ENCODING").is_empty() =>
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
    /// It is not what its `Content-Encoding` says, or not complete.
    Damaged,
    TimedOut,
    InvalidLength,
}

/// Where a body comes from.
pub trait Source {
    /// Reads what is there, waiting for it until the deadline; `None`: nothing came by then. 0 is the end, and so is a
    /// client that has gone.
    fn read(&mut self, buffer: &mut [u8], deadline: Deadline) -> Option<usize>;
}

/// The request body, not read yet.
pub struct Body<'a> {
    source: &'a mut dyn Source,
    length: Length,
    consumed: u64,
    ended: bool,
}

impl<'a> Body<'a> {
    pub fn new(variables: &Variables, source: &'a mut dyn Source) -> Body<'a> {
        let length = Length::of(variables);
        Body { source, length, consumed: 0, ended: matches!(length, Length::None | Length::Bytes(0)) }
    }

    /// Whether the announced length is above `limit`; known without reading.
    fn check_announced(&self, limit: u64) -> Result<(), BodyError> {
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
        self.rest_of(bytes, limit, deadline)
    }

    /// What was read of the body so far, and the rest of it.
    fn rest_of(&mut self, mut bytes: Vec<u8>, limit: u64, deadline: Deadline) -> Result<Vec<u8>, BodyError> {
        let mut filled = bytes.len();
        while !self.ended {
            let so_far = filled as u64;
            let wanted = match self.length {
                Length::Bytes(length) => length - so_far,
                _ => limit + 1 - so_far,
            };
            let room = filled + usize::try_from(wanted.min(64 << 10)).unwrap_or(0);
            // What comes in small pieces must not cost as much as large ones.
            if bytes.len() == filled {
                bytes.resize(room, 0);
            }
            let end = bytes.len().min(room);
            let count = self.read_some(&mut bytes[filled..end], deadline)?;
            filled += count;
            let total = filled as u64;
            match self.length {
                Length::Bytes(length) if count == 0 && total < length => return Err(BodyError::Truncated),
                Length::Bytes(length) => self.ended |= total == length,
                _ if total > limit => return Err(BodyError::TooLarge),
                _ => {}
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The same of a body that is declared packed: unpacked, at most `limit` bytes. One that is not packed after all was
    /// unpacked on its way, so that the announced length says nothing: it is read to its end.
    pub fn read_unpacked(&mut self, encoding: Encoding, limit: u64, deadline: Deadline) -> Result<Vec<u8>, BodyError> {
        // What cannot be made smaller is packed with a few bytes more.
        let most = limit.saturating_add(limit / 1000 + 64);
        self.check_announced(most)?;
        let (mut start, mut piece) = (Vec::new(), [0; ENOUGH]);
        // No further than announced: not every web server tells the end of what it passes.
        let enough = match self.length {
            Length::Bytes(length) => usize::try_from(length).unwrap_or(ENOUGH).min(ENOUGH),
            _ => ENOUGH,
        };
        while start.len() < enough && !self.ended {
            let count = self.read_some(&mut piece[..enough - start.len()], deadline)?;
            start.extend_from_slice(&piece[..count]);
        }
        let Some(format) = encoding.format(&start) else {
            if let Length::Bytes(_) = self.length {
                self.length = Length::ToEnd;
            }
            return self.rest_of(start, limit, deadline);
        };
        self.ended |= self.length == Length::Bytes(self.consumed);
        let mut failed = None;
        let rest = Packed { body: self, most, deadline, failed: &mut failed };
        match unpacked(format, BufReader::new(start.chain(rest)), limit) {
            _ if failed.is_some() => Err(failed.expect("a failure")),
            Ok(bytes) if bytes.len() as u64 > limit => Err(BodyError::TooLarge),
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(BodyError::Damaged),
        }
    }

    /// The announced length, which is not above `limit`; `None`: it is not known.
    pub fn announced(&self, limit: u64) -> Result<Option<u64>, BodyError> {
        self.check_announced(limit)?;
        Ok(match self.length {
            Length::Bytes(length) => Some(length),
            Length::None => Some(0),
            Length::ToEnd | Length::Invalid => None,
        })
    }

    /// The next bytes, at most `limit` in all; 0 at the end.
    pub fn read_on(&mut self, buffer: &mut [u8], limit: u64, deadline: Deadline) -> Result<usize, BodyError> {
        if self.ended {
            return Ok(0);
        }
        let left = match self.length {
            Length::Bytes(length) => length - self.consumed,
            _ => limit + 1 - self.consumed,
        };
        let most = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        let count = self.read_some(&mut buffer[..most], deadline)?;
        match self.length {
            Length::Bytes(length) if count == 0 && self.consumed < length => return Err(BodyError::Truncated),
            Length::Bytes(length) => self.ended |= self.consumed == length,
            _ if self.consumed > limit => return Err(BodyError::TooLarge),
            _ => {}
        }
        Ok(count)
    }

    /// Bytes that were read.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether nothing more will come.
    pub fn is_at_end(&self) -> bool {
        self.ended
    }

    /// Reads and forgets what is left: at most `limit` bytes in all.
    pub fn drain(&mut self, limit: u64, deadline: Deadline) {
        let announced = match self.length {
            Length::Bytes(length) => length.min(limit),
            Length::ToEnd | Length::Invalid => limit,
            Length::None => 0,
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

    fn read_some(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, BodyError> {
        let count = self.source.read(buffer, deadline).ok_or(BodyError::TimedOut)?;
        self.consumed += count as u64;
        self.ended |= count == 0;
        Ok(count)
    }
}

/// The rest of a packed body. Why it could not be read is left in `failed`.
struct Packed<'p, 'a> {
    body: &'p mut Body<'a>,
    most: u64,
    deadline: Deadline,
    failed: &'p mut Option<BodyError>,
}

impl Read for Packed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.body.read_on(buffer, self.most, self.deadline).map_err(|error| {
            *self.failed = Some(error);
            ErrorKind::Other.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    /// Gives its bytes in pieces of this size.
    struct Pieces<'b>(&'b [u8], usize);

    impl Source for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8], _: Deadline) -> Option<usize> {
            let count = self.1.min(buffer.len()).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Some(count)
        }
    }

    fn read(length: Option<usize>, bytes: &[u8], limit: u64) -> Result<Vec<u8>, BodyError> {
        let length = length.map_or(String::new(), |length| length.to_string());
        let variables = Variables::from_pairs(&[("REQUEST_METHOD", "POST"), ("CONTENT_LENGTH", &length)]);
        Body::new(&variables, &mut Pieces(bytes, 7)).read(limit, Deadline::after(Duration::from_secs(5)))
    }

    #[test]
    fn a_length_is_digits_or_nothing() {
        let length = |pairs: &[(&str, &str)]| Length::of(&Variables::from_pairs(pairs));
        assert_eq!(length(&[("CONTENT_LENGTH", "12")]), Length::Bytes(12));
        assert_eq!(length(&[("CONTENT_LENGTH", "+12")]), Length::Invalid);
        assert_eq!(length(&[("CONTENT_LENGTH", "-1")]), Length::Invalid);
        assert_eq!(length(&[("CONTENT_LENGTH", "99999999999999999999999")]), Length::Invalid);
        assert_eq!(length(&[("REQUEST_METHOD", "POST")]), Length::ToEnd);
        assert_eq!(length(&[("REQUEST_METHOD", "GET")]), Length::None);
        assert_eq!(length(&[("REQUEST_METHOD", "GET"), ("HTTP_TRANSFER_ENCODING", "chunked")]), Length::ToEnd);
    }

    #[test]
    fn a_body_is_what_was_announced_or_comes_to_its_end_within_the_limit() {
        assert_eq!(read(Some(10), b"0123456789and more", 100), Ok(b"0123456789".to_vec()));
        assert_eq!(read(None, b"0123456789and more", 100), Ok(b"0123456789and more".to_vec()));
        assert_eq!(read(Some(10), b"01234567", 100), Err(BodyError::Truncated));
        assert_eq!(read(Some(101), b"", 100), Err(BodyError::TooLarge));
        assert_eq!(read(None, &[0; 101], 100), Err(BodyError::TooLarge));
        assert_eq!(read(None, &[0; 100], 100).map(|body| body.len()), Ok(100));
    }

    /// As one declared gzip, of this announced length.
    fn unpacked_of(length: Option<usize>, bytes: &[u8], limit: u64) -> Result<Vec<u8>, BodyError> {
        let length = length.map_or(String::new(), |length| length.to_string());
        let variables = Variables::from_pairs(&[("REQUEST_METHOD", "POST"), ("CONTENT_LENGTH", &length)]);
        let mut source = Pieces(bytes, 7);
        Body::new(&variables, &mut source).read_unpacked(Encoding::Gzip, limit, Deadline::after(Duration::from_secs(5)))
    }

    #[test]
    fn a_packed_body_is_unpacked_and_its_limit_is_that_of_what_comes_out() {
        let text = "0123456789".repeat(200);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        let packed = encoder.finish().unwrap();
        for length in [None, Some(packed.len())] {
            assert_eq!(unpacked_of(length, &packed, 2000), Ok(text.clone().into_bytes()));
            assert_eq!(unpacked_of(length, &packed, 1999), Err(BodyError::TooLarge));
        }
        for length in [None, Some(packed.len())] {
            assert_eq!(unpacked_of(length, &packed[..packed.len() - 1], 2000), Err(BodyError::Damaged));
        }
        assert_eq!(unpacked_of(Some(3000), &packed, 2000), Err(BodyError::TooLarge));
        let damaged = [&packed[..packed.len() - 1], b"x"].concat();
        assert_eq!(unpacked_of(None, &damaged, 2000), Err(BodyError::Damaged));
    }

    #[test]
    fn what_was_unpacked_on_its_way_is_read_to_its_end_whatever_is_announced() {
        for text in ["", "{}", &"0123456789".repeat(200)] {
            for length in [None, Some(1), Some(22), Some(text.len()), Some(1900)] {
                assert_eq!(unpacked_of(length, text.as_bytes(), 2000), Ok(text.as_bytes().to_vec()), "{length:?}");
            }
        }
        assert_eq!(unpacked_of(Some(20), &b"x".repeat(2001), 2000), Err(BodyError::TooLarge));
    }

    proptest! {
        #[test]
        fn no_more_is_read_than_allowed(length in proptest::option::of(0usize..300), count in 0usize..300, limit in 1u64..300) {
            if let Ok(body) = read(length, &vec![0; count], limit) {
                prop_assert!(body.len() as u64 <= limit);
            }
        }
    }
}
