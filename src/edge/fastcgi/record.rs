//! The records of the FastCGI Specification, version 1.0 (M. R. Brown, 1996): what a web server and a responder say to each
//! other. Pure: bytes in, bytes out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Section 8, `FCGI_HEADER_LEN`.
pub const HEADER: usize = 8;
/// Most content that one record has; a multiple of eight, so that it needs no padding.
pub const MOST_CONTENT: usize = 65_528;
/// `FCGI_VERSION_1`.
const VERSION: u8 = 1;
/// `FCGI_NULL_REQUEST_ID`: of records that speak of the connection, not of a request.
pub const NO_REQUEST: u16 = 0;

/// What a record is (section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    BeginRequest = 1,
    AbortRequest = 2,
    EndRequest = 3,
    Params = 4,
    Stdin = 5,
    Stdout = 6,
    Stderr = 7,
    GetValues = 9,
    GetValuesResult = 10,
    UnknownType = 11,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::BeginRequest,
            2 => Kind::AbortRequest,
            4 => Kind::Params,
            5 => Kind::Stdin,
            9 => Kind::GetValues,
            _ => return None,
        })
    }
}

/// The head of a record that a web server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `Err`: none that a web server sends.
    pub kind: Result<Kind, u8>,
    pub id: u16,
    pub content: u16,
    pub padding: u8,
}

impl Header {
    /// `None`: this is not FastCGI of version 1.
    pub fn of(bytes: [u8; HEADER]) -> Option<Header> {
        let [version, kind, id1, id0, content1, content0, padding, _reserved] = bytes;
        (version == VERSION).then(|| Header {
            kind: Kind::of(kind).ok_or(kind),
            id: u16::from_be_bytes([id1, id0]),
            content: u16::from_be_bytes([content1, content0]),
            padding,
        })
    }
}

/// How a request ends (section 5.5, `protocolStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    Complete = 0,
    CannotMultiplex = 1,
    UnknownRole = 3,
}

/// The head of a record with so much content, which is not above [`MOST_CONTENT`].
pub fn header(kind: Kind, id: u16, content: usize) -> [u8; HEADER] {
    let [id1, id0] = id.to_be_bytes();
    let [content1, content0] = u16::try_from(content).expect("it is cut before").to_be_bytes();
    [VERSION, kind as u8, id1, id0, content1, content0, padding_of(content), 0]
}

/// Bytes behind so much content that let the next record begin at a multiple of eight (section 3.3).
pub fn padding_of(content: usize) -> u8 {
    (content.wrapping_neg() & 7) as u8
}

/// A record as it is sent.
pub fn push(out: &mut Vec<u8>, kind: Kind, id: u16, content: &[u8]) {
    out.extend(header(kind, id, content.len()));
    out.extend(content);
    out.resize(out.len() + usize::from(padding_of(content.len())), 0);
}

/// `FCGI_END_REQUEST`. `status`: as a program's exit status.
pub fn push_end(out: &mut Vec<u8>, id: u16, ended: Ended, status: u8) {
    push(out, Kind::EndRequest, id, &[0, 0, 0, status, ended as u8, 0, 0, 0]);
}

/// `FCGI_BEGIN_REQUEST`'s content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The one role that this program has.
    pub is_responder: bool,
    /// `FCGI_KEEP_CONN`.
    pub keep: bool,
}

impl Begin {
    pub fn of(content: &[u8]) -> Option<Begin> {
        let [role1, role0, flags, ..] = *<&[u8; 8]>::try_from(content).ok()?;
        Some(Begin { is_responder: [role1, role0] == [0, 1], keep: flags & 1 != 0 })
    }
}

/// Name-value pairs (section 3.4). `None`: a length points behind the end.
pub fn pairs(mut bytes: &[u8]) -> Option<Vec<(OsString, OsString)>> {
    let mut pairs = Vec::new();
    while !bytes.is_empty() {
        let (name, value) = (length(&mut bytes)?, length(&mut bytes)?);
        let (name, rest) = bytes.split_at_checked(name)?;
        let (value, rest) = rest.split_at_checked(value)?;
        bytes = rest;
        pairs.push((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())));
    }
    Some(pairs)
}

/// One byte, or four of which the first has its highest bit set.
fn length(bytes: &mut &[u8]) -> Option<usize> {
    let (&first, rest) = bytes.split_first()?;
    if first & 0x80 == 0 {
        *bytes = rest;
        return Some(usize::from(first));
    }
    let (four, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*four) & 0x7fff_ffff).ok()
}

/// The answer to `FCGI_GET_VALUES` (section 4.1): of the variables that are asked for those that are known. `at_once`: how many
/// requests this program serves at once.
pub fn values(asked: &[u8], at_once: u32) -> Vec<u8> {
    let at_once = at_once.to_string();
    let known = [("FCGI_MAX_CONNS", at_once.as_str()), ("FCGI_MAX_REQS", &at_once), ("FCGI_MPXS_CONNS", "0")];
    let asked = pairs(asked).unwrap_or_default();
    let mut content = Vec::new();
    for (name, value) in known.into_iter().filter(|(name, _)| asked.iter().any(|(wanted, _)| wanted == name)) {
        // All of them are shorter than 128 bytes.
        content.extend([name.len() as u8, value.len() as u8]);
        content.extend(name.bytes().chain(value.bytes()));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(pairs: &[(Vec<u8>, Vec<u8>)], long: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in pairs {
            for length in [name.len(), value.len()] {
                match length < 128 && !long {
                    true => bytes.push(length as u8),
                    false => bytes.extend((length as u32 | 0x8000_0000).to_be_bytes()),
                }
            }
            bytes.extend(name.iter().chain(value));
        }
        bytes
    }

    #[test]
    fn a_head_is_of_version_1() {
        assert_eq!(
            Header::of([1, 5, 1, 2, 0, 3, 5, 9]),
            Some(Header { kind: Ok(Kind::Stdin), id: 258, content: 3, padding: 5 })
        );
        assert_eq!(Header::of([1, 77, 0, 0, 0, 0, 0, 0]).unwrap().kind, Err(77));
        assert_eq!(Header::of([2, 5, 0, 1, 0, 0, 0, 0]), None);
        assert_eq!(Header::of(*b"GET / HT"), None);
    }

    #[test]
    fn what_is_begun_is_a_role_and_whether_the_connection_stays() {
        assert_eq!(Begin::of(&[0, 1, 0, 0, 0, 0, 0, 0]), Some(Begin { is_responder: true, keep: false }));
        assert_eq!(Begin::of(&[0, 3, 1, 0, 0, 0, 0, 0]), Some(Begin { is_responder: false, keep: true }));
        assert_eq!(Begin::of(&[0, 1, 0]), None);
    }

    #[test]
    fn of_the_values_that_are_asked_for_those_that_are_known_are_told() {
        let asked = written(&[(b"FCGI_MPXS_CONNS".to_vec(), vec![]), (b"X".to_vec(), vec![])], false);
        assert_eq!(values(&asked, 8), b"\x0f\x01FCGI_MPXS_CONNS0");
        assert_eq!(values(b"\xff", 8), b"");
    }

    proptest! {
        #[test]
        fn pairs_come_as_they_were_written(
            pairs_in in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), proptest::collection::vec(any::<u8>(), 0..200)), 0..6),
            long in any::<bool>(),
        ) {
            let read = pairs(&written(&pairs_in, long)).unwrap();
            let read: Vec<_> = read.into_iter().map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
            prop_assert_eq!(read, pairs_in);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = pairs(&bytes);
            let _ = Begin::of(&bytes);
            let _ = values(&bytes, 1);
        }

        #[test]
        fn a_record_ends_at_a_multiple_of_eight(content in proptest::collection::vec(any::<u8>(), 0..99)) {
            let mut out = Vec::new();
            push(&mut out, Kind::Stdout, 1, &content);
            prop_assert_eq!(out.len() % 8, 0);
            let header = Header::of(out[..HEADER].try_into().unwrap()).unwrap();
            prop_assert_eq!(out.len(), HEADER + usize::from(header.content) + usize::from(header.padding));
        }
    }
}
