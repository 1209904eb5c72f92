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
            parts.push(&rest[..end]);
            rest = &rest[end + between.len()..];
        }
    }

    /// Content type to send it with.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary=\"{}\"", self.boundary)
    }

    pub fn without_authorization(mut self) -> Self {
        self.parts.retain(|part| !name(part).is_some_and(|name| crate::form::is_authorization(&name)));
        self
    }

    /// Names and values of the parts that are not files.
    pub fn fields(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.parts
            .iter()
            .filter_map(|part| {
                let value = &part[find(part, b"\r\n\r\n")? + 4..];
                Some((text(&name(part)?), text(value)))
            })
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
fn boundary(content_type: &str) -> Option<String> {
    let value = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    ((1..=70).contains(&value.len()) && value.bytes().all(valid)).then(|| value.to_owned())
}

/// The field name that a part's headers give.
fn name(part: &[u8]) -> Option<Vec<u8>> {
    let head = String::from_utf8_lossy(&part[..find(part, b"\r\n\r\n")?]).into_owned();
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    line.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("name").then(|| value.trim().trim_matches('"').as_bytes().to_vec())
    })
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
