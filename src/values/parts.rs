//! What is sent, in parts one after another, so that nothing large is copied for it.

use super::json::{self, Elements};
use std::borrow::Cow;
use std::io::Read;

#[derive(Debug)]
pub enum Part<'a> {
    Bytes(Cow<'a, [u8]>),
    /// A JSON list that was read before, as the inside of an object: `"0":…,"1":…`. That may be six times as long.
    Numbered(&'a str),
}

impl<'a> From<&'a [u8]> for Part<'a> {
    fn from(bytes: &'a [u8]) -> Part<'a> {
        Part::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Part<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Part::Bytes(bytes.into())
    }
}

impl Part<'_> {
    pub fn length(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Numbered(list) => Numbered::of(list).map(|piece| piece.len() as u64).sum(),
        }
    }
}

/// All of it, for a look.
#[cfg(test)]
pub fn concat(parts: &[Part]) -> Vec<u8> {
    let mut all = Vec::new();
    Parts::of(parts).read_to_end(&mut all).unwrap();
    all
}

/// Reads parts one after another.
pub struct Parts<'a> {
    parts: std::slice::Iter<'a, Part<'a>>,
    numbered: Option<Numbered<'a>>,
    piece: Cow<'a, [u8]>,
    at: usize,
}

impl<'a> Parts<'a> {
    pub fn of(parts: &'a [Part<'a>]) -> Parts<'a> {
        Parts { parts: parts.iter(), numbered: None, piece: (&b""[..]).into(), at: 0 }
    }

    fn next_piece(&mut self) -> Option<Cow<'a, [u8]>> {
        loop {
            if let Some(piece) = self.numbered.as_mut().and_then(Iterator::next) {
                return Some(piece);
            }
            match self.parts.next()? {
                Part::Bytes(bytes) => return Some(Cow::Borrowed(bytes)),
                Part::Numbered(list) => self.numbered = Some(Numbered::of(list)),
            }
        }
    }
}

impl Read for Parts<'_> {
    /// As much as there is room for, whichever parts it is from: every read becomes a TLS record.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let left = &self.piece[self.at..];
            let count = left.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&left[..count]);
            self.at += count;
            filled += count;
            if self.at == self.piece.len() {
                let Some(piece) = self.next_piece() else { break };
                (self.piece, self.at) = (piece, 0);
            }
        }
        Ok(filled)
    }
}

/// Names and elements in turn.
struct Numbered<'a> {
    elements: Elements<'a>,
    count: usize,
    element: Option<&'a str>,
}

impl<'a> Numbered<'a> {
    fn of(list: &'a str) -> Numbered<'a> {
        Numbered { elements: json::elements(list), count: 0, element: None }
    }
}

impl<'a> Iterator for Numbered<'a> {
    type Item = Cow<'a, [u8]>;

    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        if let Some(element) = self.element.take() {
            return Some(element.as_bytes().into());
        }
        self.element = Some(self.elements.next()?.ok()?);
        let comma = if self.count == 0 { "" } else { "," };
        let name = format!("{comma}\"{}\":", self.count);
        self.count += 1;
        Some(name.into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(parts: &[Part], most: usize) -> Vec<u8> {
        let (mut reader, mut out, mut buffer) = (Parts::of(parts), Vec::new(), vec![0; most]);
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => return out,
                count => out.extend_from_slice(&buffer[..count]),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_the_parts_and_as_long_as_they_say(
            texts in proptest::collection::vec(proptest::option::of("[a-z]{0,9}"), 0..6),
            list in proptest::collection::vec("[0-9]|\"[a-z ,]{0,4}\"|\\[1, 2\\]", 0..14),
            most in 1usize..20,
        ) {
            let raw = format!("[ {} ]", list.join(" , "));
            let numbered: Vec<String> = list.iter().enumerate().map(|(i, value)| format!("\"{i}\":{value}")).collect();
            let part = |text: &Option<String>| text.clone().map_or(Part::Numbered(&raw), |text| text.into_bytes().into());
            let parts: Vec<Part> = texts.iter().map(part).collect();
            let expected: Vec<String> =
                texts.iter().map(|text| text.clone().unwrap_or_else(|| numbered.join(","))).collect();
            let sent = read(&parts, most);
            prop_assert_eq!(parts.iter().map(Part::length).sum::<u64>(), sent.len() as u64);
            prop_assert_eq!(String::from_utf8(sent).unwrap(), expected.concat());
        }
    }
}
