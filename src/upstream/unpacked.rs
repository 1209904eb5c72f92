//! What stands around an answer, taken off: its packing, which this program does not ask for, a byte-order mark, and a content
//! type that nobody could use.

use crate::values::encoding::{self, Encoding, Format, ENOUGH};
use flate2::read::MultiGzDecoder;
use std::io::Read;
use ureq::http::header::{HeaderMap, CONTENT_ENCODING, CONTENT_TYPE};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Longer ones are no types: a kept answer has room for a line, and a web server for 8 KiB of header.
const LONGEST_TYPE: usize = 200;

/// The body as it was meant, about so many bytes of it. Where it cannot be unpacked it stays, and `Content-Encoding` with it.
pub fn unpacked(headers: &mut HeaderMap, body: Vec<u8>, most: u64) -> Vec<u8> {
    let Ok(encoding) = Encoding::declared(&declared(headers)) else { return body };
    let mut body = match format(encoding, &body).map(|format| encoding::unpacked(format, body.as_slice(), most)) {
        None => body,
        Some(Ok(unpacked)) => unpacked,
        Some(Err(_)) => return body,
    };
    headers.remove(CONTENT_ENCODING);
    body.drain(..mark(&body));
    body
}

/// Bytes of a byte-order mark before a body.
pub fn mark(body: &[u8]) -> usize {
    if body.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    }
}

/// How it is packed: gzip may come without a word.
fn format(encoding: Option<Encoding>, body: &[u8]) -> Option<Format> {
    let start = &body[..body.len().min(ENOUGH)];
    Encoding::Gzip.format(start).or_else(|| encoding?.format(start))
}

fn declared(headers: &HeaderMap) -> String {
    let named = headers.get(CONTENT_ENCODING).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    named.unwrap_or_default()
}

/// A file's bytes without gzip, where that is what its head says.
pub fn unpacking(headers: &mut HeaderMap, reader: Box<dyn Read + Send>) -> (Box<dyn Read + Send>, bool) {
    match Encoding::declared(&declared(headers)) {
        Ok(Some(Encoding::Gzip)) => {
            headers.remove(CONTENT_ENCODING);
            (Box::new(MultiGzDecoder::new(reader)), true)
        }
        Ok(None) => {
            headers.remove(CONTENT_ENCODING);
            (reader, false)
        }
        _ => (reader, false),
    }
}

/// The content type, or where the header is none the one of what the body is.
pub fn content_type(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let named = headers.get(CONTENT_TYPE)?;
    Some(named.to_str().ok().filter(|text| is_type(text)).unwrap_or_else(|| type_of(body)).to_owned())
}

/// `type/subtype`, with parameters of any kind (RFC 9110, section 8.3.1).
pub fn is_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or("").trim();
    text.len() <= LONGEST_TYPE && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

fn type_of(body: &[u8]) -> &'static str {
    let body = body.trim_ascii_start();
    match body.first() {
        Some(b'{' | b'[') => "application/json; charset=utf-8",
        Some(b'<') if body.starts_with(b"<?xml") => "text/xml; charset=utf-8",
        Some(b'<') => "text/html",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use flate2::Compression;
    use ureq::http::HeaderValue;

    fn all(mut reader: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// What comes out, and the encoding that stays.
    fn taken_off(encoding: &str, body: &[u8], most: u64) -> (Vec<u8>, Option<String>) {
        let mut headers = HeaderMap::new();
        if !encoding.is_empty() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        }
        let body = unpacked(&mut headers, body.to_vec(), most);
        (body, headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_packed_answer_is_unpacked_whatever_its_header_says_of_gzip() {
        let text: &[u8] = b"{\"result\":1}";
        let best = Compression::best();
        let packed = all(GzEncoder::new(text, best));
        let twice = [packed.clone(), packed.clone()].concat();
        for (encoding, body, expected) in [
            ("gzip", packed.as_slice(), text),
            (" X-GZIP ", &packed, text),
            ("", &packed, text),
            ("gzip", &twice, b"{\"result\":1}{\"result\":1}"),
            ("gzip", text, text),
            ("identity", text, text),
            ("deflate", &all(ZlibEncoder::new(text, best)), text),
            ("deflate", &all(DeflateEncoder::new(text, best)), text),
            ("deflate", text, text),
            ("", b"\xef\xbb\xbf{}", b"{}"),
            ("gzip", &all(GzEncoder::new(&b"\xef\xbb\xbf{}"[..], best)), b"{}"),
        ] {
            assert_eq!(taken_off(encoding, body, 1000), (expected.to_vec(), None), "{encoding:?}");
        }
    }

    #[test]
    fn what_cannot_be_unpacked_stays_with_its_encoding() {
        let packed = all(GzEncoder::new(&b"{\"result\":1}"[..], Compression::best()));
        let cut = &packed[..packed.len() - 10];
        for (encoding, body) in [("br", &b"\x8b\x02"[..]), ("zstd", b"x"), ("gzip", cut), ("deflate", b"\xff\xff")] {
            assert_eq!(taken_off(encoding, body, 1000), (body.to_vec(), Some(encoding.into())));
        }
    }

    #[test]
    fn no_more_comes_out_than_may() {
        let packed = all(GzEncoder::new(&vec![0; 10 << 20][..], Compression::best()));
        assert_eq!(taken_off("gzip", &packed, 1000).0.len(), 1001);
    }

    #[test]
    fn a_content_type_that_is_none_is_told_from_the_body() {
        let of = |value: &[u8], body: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap());
            content_type(&headers, body.as_bytes()).unwrap()
        };
        assert_eq!(of(b"Application/JSON; charset=utf-8", "<"), "Application/JSON; charset=utf-8");
        let long = format!("application/json; x={}", "a".repeat(5000));
        for value in [long.as_bytes(), b"", b"json", "я/x".as_bytes(), b"a b/c"] {
            assert_eq!(of(value, " {}"), "application/json; charset=utf-8");
            assert_eq!(of(value, "<?xml version"), "text/xml; charset=utf-8");
            assert_eq!(of(value, "<html>"), "text/html");
            assert_eq!(of(value, "\0"), "application/octet-stream");
        }
        assert_eq!(content_type(&HeaderMap::new(), b"{}"), None);
    }
}
