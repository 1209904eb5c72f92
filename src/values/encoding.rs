//! `Content-Encoding` of a body (RFC 9110, section 8.4): gzip, or deflate, which some take for zlib's format (RFC 1950) and
//! some for the bare one (RFC 1951).
//!
//! Apache's `SetInputFilter DEFLATE` unpacks a body and leaves header and packed length as they were. So what is declared
//! packed is looked at before it is believed.

use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{BufRead, Error, ErrorKind, Read, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    Deflate,
}

/// How a body is packed, as it turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Gzip,
    Zlib,
    Bare,
}

/// So much of a body is enough to tell: among so many packed bytes there are some that no text has.
pub const ENOUGH: usize = 512;
/// Room that is made for what comes out next.
const PIECE: usize = 32 << 10;

impl Encoding {
    /// What the header declares, if anything; `Err`: what cannot be unpacked here.
    pub fn declared(header: &str) -> std::result::Result<Option<Encoding>, String> {
        let coding = header.trim().to_ascii_lowercase();
        match coding.as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
            "deflate" => Ok(Some(Encoding::Deflate)),
            _ => Err(coding),
        }
    }

    /// What a body is that begins so; `None`: it is not packed.
    pub fn format(self, start: &[u8]) -> Option<Format> {
        match (self, start) {
            (Encoding::Gzip, [0x1f, 0x8b, ..]) => Some(Format::Gzip),
            (Encoding::Gzip, _) => None,
            (Encoding::Deflate, start) if is_text(start) => None,
            // RFC 1950, section 2.2: the method, and a check over both bytes.
            (Encoding::Deflate, [cmf, flg, ..])
                if cmf & 15 == 8 && u16::from_be_bytes([*cmf, *flg]).is_multiple_of(31) =>
            {
                Some(Format::Zlib)
            }
            (Encoding::Deflate, _) => Some(Format::Bare),
        }
    }
}

/// Whether these can be the first bytes of a form or of JSON. A packed body is no text: what begins with a bare block that
/// has fixed codes ends with a zero byte, and one with codes of its own is never short.
fn is_text(start: &[u8]) -> bool {
    let has_controls = start.iter().any(|byte| *byte < b' ' && !b"\t\r\n".contains(byte));
    let is_utf_8 = std::str::from_utf8(start).map_or_else(|error| error.error_len().is_none(), |_| true);
    // In another encoding it is JSON all the same, and refused as that.
    !has_controls && (is_utf_8 || matches!(start.trim_ascii_start().first(), Some(b'{' | b'[')))
}

/// What is packed in all of the input. It ends behind `most` bytes, so that no small body becomes a huge one.
///
/// Errors: [`ErrorKind::UnexpectedEof`] where it is cut, [`ErrorKind::InvalidData`] where it is damaged; those of the input.
pub fn unpacked(format: Format, mut input: impl BufRead, most: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match format {
        Format::Gzip => {
            MultiGzDecoder::new(&mut input).take(most.saturating_add(1)).read_to_end(&mut out)?;
        }
        Format::Zlib | Format::Bare => inflate(format, &mut input, most, &mut out)?,
    }
    if out.len() as u64 <= most && !input.fill_buf()?.is_empty() {
        return Err(Error::new(ErrorKind::InvalidData, "something follows it"));
    }
    Ok(out)
}

fn inflate(format: Format, input: &mut impl BufRead, most: u64, out: &mut Vec<u8>) -> Result<()> {
    let mut state = Decompress::new(format == Format::Zlib);
    while out.len() as u64 <= most {
        let packed = input.fill_buf()?;
        let is_end = packed.is_empty();
        out.reserve(PIECE);
        let (before, had) = (state.total_in(), out.len());
        let status = state.decompress_vec(packed, out, FlushDecompress::None);
        let status = status.map_err(|_| Error::new(ErrorKind::InvalidData, "it is damaged"))?;
        input.consume(usize::try_from(state.total_in() - before).unwrap_or(0));
        match status {
            Status::StreamEnd => return Ok(()),
            _ if is_end && out.len() == had => return Err(ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use flate2::Compression;
    use proptest::prelude::*;
    use std::io::Write;

    fn packed(format: Format, text: &[u8], level: u32) -> Vec<u8> {
        let level = Compression::new(level);
        macro_rules! with {
            ($encoder:ident) => {{
                let mut encoder = $encoder::new(Vec::new(), level);
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap()
            }};
        }
        match format {
            Format::Gzip => with!(GzEncoder),
            Format::Zlib => with!(ZlibEncoder),
            Format::Bare => with!(DeflateEncoder),
        }
    }

    const FORMATS: [(Encoding, Format); 3] =
        [(Encoding::Gzip, Format::Gzip), (Encoding::Deflate, Format::Zlib), (Encoding::Deflate, Format::Bare)];

    #[test]
    fn one_encoding_can_be_declared_and_those_that_are_none() {
        assert_eq!(Encoding::declared(" GZip "), Ok(Some(Encoding::Gzip)));
        assert_eq!(Encoding::declared("x-gzip"), Ok(Some(Encoding::Gzip)));
        assert_eq!(Encoding::declared("identity"), Ok(None));
        assert_eq!(Encoding::declared("gzip, br"), Err("gzip, br".into()));
    }

    #[test]
    fn what_is_cut_damaged_or_followed_by_something_is_an_error() {
        for (_, format) in FORMATS {
            let whole = packed(format, &b"{\"method\":\"profile\"}".repeat(9), 6);
            for length in 0..whole.len() {
                let read = unpacked(format, &whole[..length], 1000);
                assert!(read.is_err(), "{format:?} {length}: {read:?}");
            }
            let more = [whole.as_slice(), b"x"].concat();
            assert!(unpacked(format, more.as_slice(), 1000).is_err(), "{format:?}");
        }
    }

    #[test]
    fn a_small_body_does_not_become_a_huge_one() {
        for (_, format) in FORMATS {
            let bomb = packed(format, &vec![b'0'; 10_000_000], 9);
            assert!(bomb.len() < 20_000);
            let read = unpacked(format, bomb.as_slice(), 1000).unwrap().len();
            assert!((1001..=1000 + 2 * PIECE).contains(&read), "{format:?} {read}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_packed_is_recognized_and_comes_out_again(
            text in "\\PC{0,40}|[{\\[]?[a-z=&\"]{0,900}", level in 0u32..10, which in 0usize..3, piece in 1usize..70
        ) {
            let (encoding, format) = FORMATS[which];
            let packed = packed(format, text.as_bytes(), level);
            prop_assert_eq!(encoding.format(&packed[..packed.len().min(ENOUGH)]), Some(format));
            let input = std::io::BufReader::with_capacity(piece, packed.as_slice());
            prop_assert_eq!(unpacked(format, input, 10_000).unwrap(), text.as_bytes());
        }

        #[test]
        fn a_text_is_never_taken_for_packed(text in "(\u{feff})?[{\\[a-zA-Zа-я \r\n\t][\\PC\r\n\t]{0,60}") {
            let start = &text.as_bytes()[..text.len().min(50)];
            prop_assert_eq!(Encoding::Gzip.format(start), None);
            prop_assert_eq!(Encoding::Deflate.format(start), None);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for (_, format) in FORMATS {
                let _ = unpacked(format, bytes.as_slice(), 1000);
            }
        }
    }
}
