//! The files that a portal stores.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use ring::digest;

use crate::params::encode;

/// A file, and what a download says of it.
#[derive(Clone, Debug)]
pub struct File {
    pub name: String,
    pub content_type: String,
    /// `Content-Disposition`; `None` sends none.
    pub disposition: Option<String>,
    pub content: Content,
}

impl File {
    /// An attachment of unknown type, under its name.
    pub fn new(name: &str, content: Content) -> File {
        let encoded = encode(name);
        File {
            name: name.to_owned(),
            content_type: "application/octet-stream".to_owned(),
            disposition: Some(format!("attachment; filename=\"{encoded}\"; filename*=utf-8''{encoded}")),
            content,
        }
    }
}

/// Bytes that can be read anywhere. Clones are the same bytes.
#[derive(Clone)]
pub struct Content(Arc<Bytes>);

enum Bytes {
    Given(Vec<u8>),
    /// `pattern` again and again, each time with the repetition's number in its first 8 bytes.
    Generated {
        size: u64,
        pattern: Vec<u8>,
    },
    /// Received, counted, and not kept.
    Gone {
        size: u64,
        sha256: String,
    },
}

/// A prime, so that nobody's buffers fall in step with it.
const PATTERN: usize = 65_521;

impl Content {
    pub fn given(bytes: impl Into<Vec<u8>>) -> Content {
        Content(Arc::new(Bytes::Given(bytes.into())))
    }

    /// The same for the same seed; made as it is read.
    pub fn generated(size: u64, seed: u64) -> Content {
        let mut state = seed;
        let mut pattern = Vec::with_capacity(PATTERN + 8);
        while pattern.len() < PATTERN {
            // SplitMix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            pattern.extend_from_slice(&(z ^ (z >> 31)).to_be_bytes());
        }
        pattern.truncate(PATTERN);
        Content(Arc::new(Bytes::Generated { size, pattern }))
    }

    pub(crate) fn gone(size: u64, sha256: &str) -> Content {
        Content(Arc::new(Bytes::Gone { size, sha256: sha256.to_owned() }))
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.0, Bytes::Gone { .. })
    }

    pub fn size(&self) -> u64 {
        match &*self.0 {
            Bytes::Given(bytes) => bytes.len() as u64,
            Bytes::Generated { size, .. } | Bytes::Gone { size, .. } => *size,
        }
    }

    /// Fills `out` from `at` on; answers less than its length only at the end.
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> usize {
        let left = if self.is_gone() { 0 } else { self.size().saturating_sub(at) };
        let length = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let out = &mut out[..length];
        match &*self.0 {
            Bytes::Given(bytes) => out.copy_from_slice(&bytes[at as usize..at as usize + length]),
            Bytes::Generated { pattern, .. } => {
                let mut done = 0;
                while done < length {
                    done += repetition(pattern, at + done as u64, &mut out[done..]);
                }
            }
            Bytes::Gone { .. } => {}
        }
        length
    }

    pub fn reader(&self) -> impl Read + Send + 'static {
        self.reader_of(0..self.size())
    }

    pub fn reader_of(&self, range: Range<u64>) -> impl Read + Send + 'static {
        Reader { content: self.clone(), at: range.start, end: range.end.min(self.size()) }
    }

    /// In lower-case hexadecimal digits.
    pub fn sha256(&self) -> String {
        match &*self.0 {
            Bytes::Gone { sha256, .. } => sha256.clone(),
            _ => self.sha256_of(0..self.size()),
        }
    }

    pub fn sha256_of(&self, range: Range<u64>) -> String {
        let mut digest = Digest::default();
        let mut reader = self.reader_of(range);
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut piece) {
            digest.update(&piece[..read]);
        }
        digest.finish()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.size())
    }
}

/// One repetition's part of the pattern, from `at` on; answers how many bytes.
fn repetition(pattern: &[u8], at: u64, out: &mut [u8]) -> usize {
    let number = (at / PATTERN as u64).to_be_bytes();
    let from = (at % PATTERN as u64) as usize;
    let length = out.len().min(PATTERN - from);
    out[..length].copy_from_slice(&pattern[from..from + length]);
    for (i, byte) in number.iter().enumerate().skip(from).take_while(|(i, _)| *i < from + length) {
        out[i - from] = *byte;
    }
    length
}

struct Reader {
    content: Content,
    at: u64,
    end: u64,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX));
        let read = self.content.read_at(self.at, &mut out[..most]);
        self.at += read as u64;
        Ok(read)
    }
}

/// SHA-256 of what comes in pieces.
pub(crate) struct Digest(digest::Context);

impl Default for Digest {
    fn default() -> Digest {
        Digest(digest::Context::new(&digest::SHA256))
    }
}

impl Digest {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> String {
        self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// How many bytes have gone one way so far. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved(Arc<AtomicU64>);

impl Moved {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_bytes_are_the_same_wherever_they_are_read() {
        let content = Content::generated(3 * PATTERN as u64 + 100, 7);
        let mut whole = Vec::new();
        content.reader().read_to_end(&mut whole).expect("a reader in memory");
        assert_eq!(whole.len(), 3 * PATTERN + 100);
        assert_eq!(content.sha256(), Content::given(whole.clone()).sha256());
        assert_ne!(content.sha256(), Content::generated(content.size(), 8).sha256());
        for at in [0, 3, 7, 8, PATTERN - 5, PATTERN, PATTERN + 3, 2 * PATTERN + 7, whole.len() - 4, whole.len()] {
            let mut piece = [0; 20];
            let read = content.read_at(at as u64, &mut piece);
            assert_eq!(piece[..read], whole[at..(at + 20).min(whole.len())], "{at}");
        }
        assert_ne!(whole[..PATTERN], whole[PATTERN..2 * PATTERN]);
    }

    #[test]
    fn a_digest_is_sha_256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Content::given("abc").sha256(), abc);
        assert_eq!(Content::given("xxabcx").sha256_of(2..5), abc);
    }
}
