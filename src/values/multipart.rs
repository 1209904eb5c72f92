//! `multipart/form-data` (RFC 7578), as far as passing it on needs: its parts, without a look into their content.

/// A complete multipart body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart<'a> {
    boundary: String,
    /// Headers and content of each part.
    parts: Vec<&'a [u8]>,
}

impl<'a> Multipart<'a> {
    pub fn parse(content_type: &str, body: &'a [u8]) -> Option<Multipart<'a>> {
        let boundary = boundary(content_type)?;
        let mut parts = Vec::new();
        let opening = format!("--{boundary}");
        let between = format!("\r\n--{boundary}");
        // What stands before the first delimiter is not part of the form.
        let mut rest = match body.strip_prefix(opening.as_bytes()) {
            Some(rest) => rest,
            None => &body[find(body, between.as_bytes())? + between.len()..],
        };
        loop {
            if rest.starts_with(b"--") {
                return Some(Multipart { boundary, parts });
            }
            rest = rest.strip_prefix(b"\r\n")?;
            let end = find(rest, between.as_bytes())?;
            let part = &rest[..end];
            // PHP ends lines at a bare line feed too, and would see other parts than we do.
            let (head, content) = head_and_content(part)?;
            if has_bare_line_feed(head) || find(content, &between.as_bytes()[1..]).is_some() {
                return None;
            }
            parts.push(part);
            rest = &rest[end + between.len()..];
        }
    }

    /// Content type to send it with.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary=\"{}\"", self.boundary)
    }

    pub fn without_authorization(mut self) -> Self {
        self.parts.retain(|part| !name(part).is_some_and(|name| crate::values::form::is_authorization(&name)));
        self
    }

    /// Names and values of the parts that are not files.
    pub fn fields(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let is_field = |part: &&&[u8]| parameter(part, "filename").is_none();
        self.parts
            .iter()
            .filter(is_field)
            .filter_map(|part| Some((text(&name(part)?), text(head_and_content(part)?.1))))
            .collect()
    }

    /// The body, with one more part at its end: PHP keeps the last of a name.
    pub fn written_with(&self, extra: Option<(&str, &str)>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            out.extend(format!("--{}\r\n", self.boundary).as_bytes());
            out.extend(*part);
            out.extend(b"\r\n");
        }
        if let Some((name, value)) = extra {
            let boundary = &self.boundary;
            out.extend(
                format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
                    .as_bytes(),
            );
        }
        out.extend(format!("--{}--\r\n", self.boundary).as_bytes());
        out
    }
}

/// RFC 2046, section 5.1.1: 1 to 70 characters; those that could break a header are refused.
pub fn boundary(content_type: &str) -> Option<String> {
    let value = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    ((1..=70).contains(&value.len()) && value.bytes().all(valid)).then(|| value.to_owned())
}

/// A part's headers and what follows the empty line after them.
fn head_and_content(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = find(part, b"\r\n\r\n")?;
    Some((&part[..end], &part[end + 4..]))
}

pub fn has_bare_line_feed(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// The field name that a part's headers give.
fn name(part: &[u8]) -> Option<Vec<u8>> {
    parameter(part, "name")
}

/// A parameter of a part's `Content-Disposition` as PHP reads it: in quotes of either kind, with backslashes, the last
/// of those given.
fn parameter(part: &[u8], wanted: &str) -> Option<Vec<u8>> {
    parameter_in(head_and_content(part)?.0, wanted)
}

/// The field name that the head of a part gives.
pub fn name_in(head: &[u8]) -> Option<Vec<u8>> {
    parameter_in(head, "name")
}

fn parameter_in(head: &[u8], wanted: &str) -> Option<Vec<u8>> {
    // A line that begins with a space goes on with the one before.
    let head = String::from_utf8_lossy(head).replace("\r\n ", " ").replace("\r\n\t", " ");
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let mut found = None;
    let mut rest = line;
    while let Some(at) = rest.find(';') {
        let Some((key, value)) = rest[at + 1..].split_once('=') else { break };
        let (value, after) = word(value.trim_start());
        if key.trim().eq_ignore_ascii_case(wanted) {
            found = Some(value.into_bytes());
        }
        rest = after;
    }
    found
}

/// A value, quoted or up to the next semicolon, and what follows it.
fn word(text: &str) -> (String, &str) {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim_end().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match (character, characters.peek()) {
            ('\\', Some((_, next))) if *next == quote || *next == '\\' => {
                value.push(*next);
                characters.next();
            }
            _ if character == quote => return (value, &text[at + 1..]),
            _ => value.push(character),
        }
    }
    (value, "")
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; boundary=xyz";
    const BODY: &str = "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
                        --xyz\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\nX\r\n--xyz--\r\n";

    #[test]
    fn a_part_is_added_at_the_end_and_the_callers_authorization_dropped() {
        let form = Multipart::parse(TYPE, BODY.as_bytes()).unwrap().without_authorization();
        let written = String::from_utf8(form.written_with(Some(("auth", "T")))).unwrap();
        assert_eq!(written, BODY.replace("\r\n\r\nX\r\n", "\r\n\r\nT\r\n"));
        assert_eq!(form.fields(), [("a".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn an_incomplete_body_is_none() {
        assert_eq!(Multipart::parse(TYPE, &BODY.as_bytes()[..BODY.len() - 10]), None);
        assert_eq!(Multipart::parse("multipart/form-data", BODY.as_bytes()), None);
        assert_eq!(Multipart::parse(TYPE, b""), None);
    }

    #[test]
    fn names_are_those_that_php_reads() {
        let read = |disposition: &str| {
            let part = format!("X: y\r\nContent-Disposition: {disposition}\r\n\r\nvalue");
            name(part.as_bytes()).map(|name| String::from_utf8(name).unwrap())
        };
        assert_eq!(read("form-data; name=\"a;b\"").as_deref(), Some("a;b"));
        assert_eq!(read("form-data; name='auth'").as_deref(), Some("auth"));
        assert_eq!(read("form-data; NAME=auth ; x=y").as_deref(), Some("auth"));
        assert_eq!(read("form-data; name=\"x\"; name=\"auth\"").as_deref(), Some("auth"));
        assert_eq!(read("form-data;\r\n name=\"a\\\"b\"").as_deref(), Some("a\"b"));
        assert_eq!(read("form-data"), None);
    }

    #[test]
    fn what_php_would_see_as_other_parts_is_refused() {
        for bad in [
            "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\n--xyz\nX: y\n\n2\r\n--xyz--\r\n",
            "--xyz\r\nX: y\n\nz\r\n\r\n1\r\n--xyz--\r\n",
            "--xyz\r\nX: y\r\n--xyz--\r\n",
        ] {
            assert_eq!(Multipart::parse(TYPE, bad.as_bytes()), None, "{bad}");
        }
        let file = BODY.replace("name=\"a\"", "name=\"cmd[a]\"; filename=\"x\"");
        assert_eq!(Multipart::parse(TYPE, file.as_bytes()).unwrap().fields(), [("auth".to_owned(), "X".to_owned())]);
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_written_alike(text in "(--xyz|\r\n|--|a|: |name=\"auth\"){0,20}") {
            if let Some(form) = Multipart::parse(TYPE, text.as_bytes()) {
                let written = form.written_with(None);
                prop_assert_eq!(Multipart::parse(TYPE, &written), Some(form.clone()));
            }
        }
    }
}
