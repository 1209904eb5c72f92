//! `multipart/form-data` (RFC 7578), as far as passing it on needs: its parts, without a look into their content.

use super::form::is_authorization;
use super::parts::Part;
use memchr::memmem;

/// A complete multipart body, without the caller's authorization.
#[derive(Clone, Debug)]
pub struct Multipart<'a> {
    boundary: String,
    /// From the first delimiter to behind the last.
    form: &'a [u8],
    /// The parts to pass on, with their delimiters, as they stand: in runs between those that are left out.
    runs: Vec<&'a [u8]>,
}

impl<'a> Multipart<'a> {
    pub fn parse(content_type: &str, body: &'a [u8]) -> Option<Multipart<'a>> {
        let boundary = boundary(content_type)?;
        let delimiter = format!("--{boundary}");
        // What stands before the first delimiter is not part of the form.
        let form = match body.starts_with(delimiter.as_bytes()) {
            true => body,
            false => &body[find(body, format!("\r\n{delimiter}").as_bytes())? + 2..],
        };
        let (mut rest, mut run, mut runs) = (form, form, Vec::new());
        let until = |run: &'a [u8], rest: &[u8]| &run[..run.len() - rest.len()];
        while !is_closed(rest, &delimiter) {
            let (part, next) = first_part(rest, &delimiter)?;
            // PHP ends lines at a bare line feed too, and would see other parts than we do.
            let (head, content) = head_and_content(part)?;
            if has_bare_line_feed(head) || find(content, format!("\n{delimiter}").as_bytes()).is_some() {
                return None;
            }
            if name_in(head).is_some_and(|name| is_authorization(&name)) {
                runs.push(until(run, rest));
                run = next;
            }
            rest = next;
        }
        runs.push(until(run, rest));
        Some(Multipart { boundary, form, runs })
    }

    /// Content type to send it with.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary=\"{}\"", self.boundary)
    }

    /// Names and values of the parts that are not files.
    pub fn fields(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (delimiter, mut rest) = (format!("--{}", self.boundary), self.form);
        let parts = std::iter::from_fn(move || {
            let (part, next) = first_part(rest, &delimiter)?;
            rest = next;
            head_and_content(part)
        });
        let fields = parts.filter(|(head, _)| parameter(head, "filename").is_none());
        fields.filter_map(move |(head, content)| Some((text(&name_in(head)?), text(content))))
    }

    /// The body, with one more part at its end: PHP keeps the last of a name.
    pub fn written_with(&self, extra: Option<(&str, &str)>) -> Vec<Part<'_>> {
        let boundary = &self.boundary;
        let mut end = String::new();
        if let Some((name, value)) = extra {
            end = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        end.push_str(&format!("--{boundary}--\r\n"));
        self.runs.iter().map(|run| Part::from(*run)).chain([end.into_bytes().into()]).collect()
    }
}

fn is_closed(rest: &[u8], delimiter: &str) -> bool {
    rest.strip_prefix(delimiter.as_bytes()).is_some_and(|rest| rest.starts_with(b"--"))
}

/// The part behind the delimiter that `rest` begins with, and what follows it from the next delimiter on.
fn first_part<'a>(rest: &'a [u8], delimiter: &str) -> Option<(&'a [u8], &'a [u8])> {
    let inside = rest.strip_prefix(delimiter.as_bytes())?.strip_prefix(b"\r\n")?;
    let end = find(inside, format!("\r\n{delimiter}").as_bytes())?;
    Some((&inside[..end], &inside[end + 2..]))
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

/// The field name that the head of a part gives.
pub fn name_in(head: &[u8]) -> Option<Vec<u8>> {
    parameter(head, "name")
}

/// A parameter of a part's `Content-Disposition` as PHP reads it: in quotes of either kind, with backslashes, the last
/// of those given.
fn parameter(head: &[u8], wanted: &str) -> Option<Vec<u8>> {
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
    memmem::find(bytes, needle)
}

#[cfg(test)]
mod tests {
    use super::super::parts::concat;
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "multipart/form-data; boundary=xyz";
    const BODY: &str = "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
                        --xyz\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\nX\r\n--xyz--\r\n";

    fn sent(form: &Multipart, extra: Option<(&str, &str)>) -> Vec<u8> {
        concat(&form.written_with(extra))
    }

    fn fields(body: &str) -> Vec<(String, String)> {
        Multipart::parse(TYPE, body.as_bytes()).unwrap().fields().collect()
    }

    #[test]
    fn a_part_is_added_at_the_end_and_the_callers_authorization_dropped() {
        let auth = "--xyz\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\nX\r\n";
        let other = "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
        let ours = "--xyz\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\nT\r\n--xyz--\r\n";
        for (body, kept) in [
            (format!("{other}{auth}--xyz--\r\n"), other.to_owned()),
            (format!("preamble\r\n{auth}{auth}{other}{auth}{other}{other}{auth}--xyz--"), other.repeat(3)),
            (format!("{auth}--xyz--\r\nepilogue"), String::new()),
            (format!("{other}--xyz--"), other.to_owned()),
        ] {
            let form = Multipart::parse(TYPE, body.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(sent(&form, Some(("auth", "T")))).unwrap(), format!("{kept}{ours}"));
        }
        assert_eq!(fields(BODY), [("a".to_owned(), "1".to_owned()), ("auth".to_owned(), "X".to_owned())]);
    }

    #[test]
    fn an_incomplete_body_is_none() {
        assert!(Multipart::parse(TYPE, &BODY.as_bytes()[..BODY.len() - 10]).is_none());
        assert!(Multipart::parse("multipart/form-data", BODY.as_bytes()).is_none());
        assert!(Multipart::parse(TYPE, b"").is_none());
    }

    #[test]
    fn names_are_those_that_php_reads() {
        let read = |disposition: &str| {
            let head = format!("X: y\r\nContent-Disposition: {disposition}");
            name_in(head.as_bytes()).map(|name| String::from_utf8(name).unwrap())
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
            assert!(Multipart::parse(TYPE, bad.as_bytes()).is_none(), "{bad}");
        }
        let file = BODY.replace("name=\"a\"", "name=\"cmd[a]\"; filename=\"x\"");
        assert_eq!(fields(&file), [("auth".to_owned(), "X".to_owned())]);
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_written_alike(text in "(--xyz|\r\n|--|a|: |name=\"auth\"){0,20}") {
            if let Some(form) = Multipart::parse(TYPE, text.as_bytes()) {
                let written = sent(&form, None);
                let again = Multipart::parse(TYPE, &written).unwrap();
                prop_assert_eq!(sent(&again, None), written.clone());
                prop_assert!(again.fields().all(|(name, _)| name != "auth"));
            }
        }
    }
}
