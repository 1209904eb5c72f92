//! A `multipart/form-data` body on its way: the names of its parts, as they come. A part that PHP would take for the signature
//! or the authorization of a signed address would replace those that were signed.

use super::form;
use super::multipart::{boundary, has_bare_line_feed, name_in};
use memchr::memmem;

/// The longest head of a part.
const MOST_HEAD: usize = 16 << 10;

/// Why a body is not passed on any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A part has this name.
    Name(String),
    /// PHP could see other parts in it than we do.
    Unclear,
}

enum Place {
    /// Before the first delimiter, or in a part's content.
    Content,
    /// Behind a delimiter.
    Delimiter,
    Head,
    /// Behind the last delimiter.
    End,
}

/// What has been seen of a body so far.
pub struct Parts {
    boundary: String,
    /// As PHP looks for it, which ends a line at a line feed alone.
    delimiter: Vec<u8>,
    place: Place,
    /// What was given and is not judged yet.
    pending: Vec<u8>,
}

impl Parts {
    /// `None`: this is not the content type of such a body.
    pub fn of(content_type: &str) -> Option<Parts> {
        let media_type = content_type.split(';').next().unwrap_or("").trim();
        let boundary = boundary(content_type).filter(|_| media_type.eq_ignore_ascii_case("multipart/form-data"))?;
        let delimiter = format!("\n--{boundary}").into_bytes();
        // The first delimiter may be the first line.
        Some(Parts { boundary, delimiter, place: Place::Content, pending: b"\r\n".to_vec() })
    }

    /// The content type to send it with, in which PHP finds this boundary and no other.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary=\"{}\"", self.boundary)
    }

    /// Looks at the next bytes, before they are passed on.
    pub fn see(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.pending.extend_from_slice(bytes);
        while self.step()? {}
        Ok(())
    }

    /// Whether the last delimiter has come.
    pub fn is_complete(&self) -> bool {
        matches!(self.place, Place::End)
    }

    /// Judges what is pending; whether there is more to judge.
    fn step(&mut self) -> Result<bool, Refused> {
        match self.place {
            Place::Content => {
                let Some(at) = memmem::find(&self.pending, &self.delimiter) else {
                    // Its end may be the beginning of a delimiter, and what stands before that counts too.
                    let kept = self.pending.len().min(self.delimiter.len());
                    self.pending.drain(..self.pending.len() - kept);
                    return Ok(false);
                };
                if at == 0 || self.pending[at - 1] != b'\r' {
                    return Err(Refused::Unclear);
                }
                self.pending.drain(..at + self.delimiter.len());
                self.place = Place::Delimiter;
            }
            Place::Delimiter => {
                if self.pending.len() < 2 {
                    return Ok(false);
                }
                self.place = match &self.pending[..2] {
                    b"\r\n" => Place::Head,
                    b"--" => Place::End,
                    _ => return Err(Refused::Unclear),
                };
                self.pending.drain(..2);
            }
            Place::Head => {
                let Some(end) = memmem::find(&self.pending, b"\r\n\r\n") else {
                    return if self.pending.len() > MOST_HEAD { Err(Refused::Unclear) } else { Ok(false) };
                };
                let head = &self.pending[..end];
                if end > MOST_HEAD || has_bare_line_feed(head) || memmem::find(head, &self.delimiter).is_some() {
                    return Err(Refused::Unclear);
                }
                if let Some(name) = name_in(head) {
                    let variable = form::variable(&name);
                    if matches!(variable.as_slice(), b"token" | b"auth" | b"access_token") {
                        return Err(Refused::Name(String::from_utf8_lossy(&name).into_owned()));
                    }
                }
                // The empty line may be the one before a delimiter.
                self.pending.drain(..end + 2);
                self.place = Place::Content;
            }
            // PHP looks for parts there too.
            Place::End => {
                let is_blank = self.pending.iter().all(|byte| b" \t\r\n".contains(byte));
                self.pending.clear();
                return if is_blank { Ok(false) } else { Err(Refused::Unclear) };
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; boundary=XX";

    /// In pieces of this size.
    fn seen(body: &[u8], piece: usize) -> Result<bool, Refused> {
        let mut parts = Parts::of(TYPE).unwrap();
        body.chunks(piece).try_for_each(|bytes| parts.see(bytes))?;
        Ok(parts.is_complete())
    }

    fn part(head: &str, content: &str) -> String {
        format!("--XX\r\n{head}\r\n\r\n{content}\r\n")
    }

    fn named(name: &str) -> String {
        part(&format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"f\""), "content")
    }

    #[test]
    fn a_file_passes_in_pieces_of_any_size() {
        let body = format!("{}{}--XX--\r\n", named("file"), part("Content-Disposition: form-data; name=a", ""));
        for piece in 1..=body.len() {
            assert_eq!(seen(body.as_bytes(), piece), Ok(true), "{piece}");
        }
        assert_eq!(seen(&body.as_bytes()[..body.len() - 5], 7), Ok(false), "not complete");
        assert_eq!(Parts::of(TYPE).unwrap().content_type(), "multipart/form-data; boundary=\"XX\"");
        assert!(Parts::of("application/octet-stream").is_none() && Parts::of("multipart/form-data").is_none());
    }

    #[test]
    fn a_part_that_php_takes_for_a_signature_or_authorization_is_refused_wherever_it_stands() {
        for name in [
            "token",
            "auth",
            "access_token",
            "token[]",
            " token",
            "token[a][b]",
            "auth\0x",
            "access.token",
            "access token",
        ] {
            let body = format!("{}{}--XX--", named("file"), named(name));
            for piece in [1, 5, 1000] {
                assert!(matches!(seen(body.as_bytes(), piece), Err(Refused::Name(_))), "{name:?}");
            }
        }
        for name in ["file", "tokens", "tok", "a[token]"] {
            assert_eq!(seen(format!("{}--XX--", named(name)).as_bytes(), 9), Ok(true), "{name}");
        }
    }

    #[test]
    fn where_php_could_see_other_parts_nothing_passes() {
        for body in [
            "--XX\r\nContent-Disposition: form-data; name=a\r\n\r\nx\n--XX\r\nContent-Disposition: form-data; name=token\r\n\r\n",
            "--XX\nContent-Disposition: form-data; name=token\n\n",
            "--XX\r\nA: b\nContent-Disposition: form-data; name=token\r\n\r\n",
            "--XXY\r\n",
            "--XX--\r\n--XX\r\nContent-Disposition: form-data; name=token\r\n\r\n",
            "--XX-- more",
        ] {
            assert!(seen(body.as_bytes(), 6).is_err(), "{body}");
        }
        let long = format!("--XX\r\nA: {}", "x".repeat(MOST_HEAD + 10));
        assert_eq!(seen(long.as_bytes(), 1000), Err(Refused::Unclear));
    }

    proptest! {
        #[test]
        fn the_size_of_the_pieces_decides_nothing(
            body in "(--XX|\r\n|\n|--|Content-Disposition: form-data; name=|token|file|;|\"|x|: ){0,25}",
            piece in 1usize..30,
        ) {
            let (whole, pieces) = (seen(body.as_bytes(), body.len().max(1)), seen(body.as_bytes(), piece));
            prop_assert_eq!(whole.is_ok(), pieces.is_ok());
            if whole.is_ok() {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
