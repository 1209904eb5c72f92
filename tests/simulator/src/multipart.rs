//! `multipart/form-data`, read as it comes.

use std::io::{self, BufRead, Read};

use crate::files::Digest;
use crate::params::{attribute, register};
use crate::php::Array;

const MAX_HEAD: usize = 64 * 1024;
const PIECE: usize = 64 * 1024;
/// A file up to this size is kept.
const KEPT: usize = 1024 * 1024;

/// A part of a form that was received.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: String,
    /// With it, PHP takes the part for a file; without, for a parameter.
    pub filename: Option<String>,
    pub content_type: Option<String>,
    pub size: u64,
    pub sha256: String,
}

#[derive(Default)]
pub(crate) struct Form {
    /// As PHP reads them; files are not among them.
    pub(crate) fields: Array,
    pub(crate) parts: Vec<Part>,
    /// For each part its bytes, unless it is a large file.
    pub(crate) bytes: Vec<Option<Vec<u8>>>,
    /// The closing boundary was read.
    pub(crate) complete: bool,
}

/// Reads a form; what has come before an error is in `form`.
pub(crate) fn read(body: &mut dyn Read, boundary: &str, form: &mut Form) -> io::Result<()> {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    // The first boundary may stand at the very start.
    let mut input = Input { body, data: b"\r\n".to_vec() };
    let mut found = input.up_to(&delimiter, &mut |_| {})?;
    while found {
        while input.data.len() < 2 {
            if !input.fill()? {
                return Ok(());
            }
        }
        if input.data.starts_with(b"--") {
            form.complete = true;
            return input.up_to(&delimiter, &mut |_| {}).map(|_| ());
        }
        let mut head = Vec::new();
        input.up_to(b"\r\n", &mut |_| {})?;
        input.data.splice(0..0, *b"\r\n");
        input.up_to(b"\r\n\r\n", &mut |piece| head.extend(piece.iter().take(MAX_HEAD - head.len())))?;
        let mut part = Open::of(&String::from_utf8_lossy(&head));
        found = input.up_to(&delimiter, &mut |piece| part.take(piece))?;
        part.close(form);
    }
    Ok(())
}

/// A part that is being read.
struct Open {
    name: Option<String>,
    filename: Option<String>,
    content_type: Option<String>,
    digest: Digest,
    size: u64,
    bytes: Option<Vec<u8>>,
}

impl Open {
    fn of(head: &str) -> Open {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        let content_type = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        Open {
            name: attribute(head, "name"),
            filename: attribute(head, "filename"),
            content_type: content_type.map(|(_, value)| value.trim().to_owned()),
            digest: Digest::default(),
            size: 0,
            bytes: Some(Vec::new()),
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.digest.update(piece);
        self.size += piece.len() as u64;
        if self.filename.is_some() && self.size > KEPT as u64 {
            self.bytes = None;
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.extend_from_slice(piece);
        }
    }

    fn close(self, form: &mut Form) {
        let Some(name) = self.name else { return };
        if let (None, Some(bytes)) = (&self.filename, &self.bytes) {
            register(&mut form.fields, &name, String::from_utf8_lossy(bytes).into_owned());
        }
        form.bytes.push(self.bytes);
        form.parts.push(Part {
            name,
            filename: self.filename,
            content_type: self.content_type,
            size: self.size,
            sha256: self.digest.finish(),
        });
    }
}

struct Input<'a> {
    body: &'a mut dyn Read,
    data: Vec<u8>,
}

impl Input<'_> {
    /// `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let length = self.data.len();
        self.data.resize(length + PIECE, 0);
        let read = self.body.read(&mut self.data[length..]);
        self.data.truncate(length + read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    /// Gives on what stands before `mark`, and passes over it; `false` where the end comes first.
    fn up_to(&mut self, mark: &[u8], give: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        loop {
            if let Some(at) = find(&self.data, mark) {
                give(&self.data[..at]);
                self.data.drain(..at + mark.len());
                return Ok(true);
            }
            let safe = self.data.len().saturating_sub(mark.len() - 1);
            give(&self.data[..safe]);
            self.data.drain(..safe);
            if !self.fill()? {
                give(&self.data);
                self.data.clear();
                return Ok(false);
            }
        }
    }
}

/// Where `mark` stands first. The search for its first byte is the standard library's own, which is fast in a test's build too.
fn find(data: &[u8], mark: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let mut rest = &data[at..];
        let passed = rest.skip_until(mark[0]).unwrap_or(0);
        if passed == 0 || data[at + passed - 1] != mark[0] {
            return None;
        }
        at += passed - 1;
        if data[at..].starts_with(mark) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::php::Php;

    /// Gives `size` bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(out.len());
            self.0.read(&mut out[..most])
        }
    }

    #[test]
    fn a_form_is_the_same_however_it_comes() {
        let text = "preamble\r\n--X\r\nContent-Disposition: form-data; name=\"a[b]\"\r\n\r\none\r\n--Xtwo\r\n\
                    --X  \r\ncontent-disposition: form-data; name=f; filename=\"x.txt\"\r\nContent-Type: text/x\r\n\r\n\
                    \r\n--\r--X\r\n\r\n--X\r\n\r\nnobody\r\n--X\r\nContent-Disposition: form-data; name=\"e\"\r\n\r\n\r\n\
                    --X--\r\nepilogue";
        // What begins like a boundary is one: `--Xtwo` ends `a[b]`, and is followed by no head.
        for size in 1..40 {
            let mut form = Form::default();
            read(&mut Slowly(text.as_bytes(), size), "X", &mut form).expect("a slice does not fail");
            assert!(form.complete);
            assert_eq!(Php::Array(form.fields).encode(), r#"{"a":{"b":"one"},"e":""}"#, "{size}");
            let names: Vec<_> = form.parts.iter().map(|part| (part.name.as_str(), part.size)).collect();
            assert_eq!(names, [("a[b]", 3), ("f", 10), ("e", 0)], "{size}");
            assert_eq!(form.parts[1].filename.as_deref(), Some("x.txt"));
            assert_eq!(form.parts[1].content_type.as_deref(), Some("text/x"));
            assert_eq!(form.bytes[1].as_deref(), Some(&b"\r\n--\r--X\r\n"[..]));
        }
    }

    #[test]
    fn a_form_that_is_cut_off_is_not_complete() {
        let text = "--X\r\nContent-Disposition: form-data; name=a\r\n\r\none";
        let mut form = Form::default();
        read(&mut text.as_bytes(), "X", &mut form).expect("a slice does not fail");
        assert_eq!((form.complete, Php::Array(form.fields).encode().as_str()), (false, r#"{"a":"one"}"#));
    }
}
