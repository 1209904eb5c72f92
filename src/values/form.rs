//! Forms and queries (`application/x-www-form-urlencoded`), with PHP's rules for names.

use crate::values::percent;
use crate::values::secret::Secret;

/// The fields under their names as posted: `auth[domain]` is a name. Of a name given twice PHP keeps the last.
pub struct Form(Vec<u8>);

impl Form {
    pub fn of(bytes: Vec<u8>) -> Form {
        Form(bytes)
    }

    pub fn has(&self, name: &str) -> bool {
        fields(&self.0).any(|(known, _)| known == name)
    }

    /// The value, empty where there is none.
    pub fn text(&self, name: &str) -> String {
        fields(&self.0).filter(|(known, _)| known == name).last().map_or(String::new(), |(_, value)| value)
    }

    /// As they were posted.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn secret(&self, name: &str) -> Secret {
        Secret::new(self.text(name))
    }
}

/// Names and values, decoded as they are asked for; what is not UTF-8 is replaced.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = (String, String)> + '_ {
    let text = |bytes: &[u8]| {
        let decoded = decoded(bytes);
        String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    };
    bytes.split(|b| *b == b'&').filter(|segment| !segment.is_empty()).map(move |segment| {
        let equals = segment.iter().position(|b| *b == b'=').unwrap_or(segment.len());
        (text(&segment[..equals]), text(segment.get(equals + 1..).unwrap_or_default()))
    })
}

/// The names of the fields, decoded.
pub fn names(text: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    text.split(|b| *b == b'&').map(|segment| decoded(segment.split(|b| *b == b'=').next().unwrap_or(segment)))
}

/// Whether PHP reads this decoded name as `auth` or `access_token`, or as an element of such an array.
pub fn is_authorization(name: &[u8]) -> bool {
    let variable = variable(name);
    variable == b"auth" || variable == b"access_token"
}

/// The variable that PHP makes of a field's decoded name: without leading spaces, up to a NUL or the bracket of an array;
/// spaces, dots and a bracket that is never closed become `_`.
pub fn variable(name: &[u8]) -> Vec<u8> {
    let name = name.split(|b| *b == 0).next().unwrap_or(name);
    let start = name.iter().position(|b| *b != b' ').unwrap_or(name.len());
    let name = &name[start..];
    let end = match name.iter().position(|b| *b == b'[') {
        Some(at) if name[at..].contains(&b']') => at,
        _ => name.len(),
    };
    name[..end].iter().map(|b| if matches!(b, b' ' | b'.' | b'[') { b'_' } else { *b }).collect()
}

/// The text without the fields that carry an authorization; every other byte as it is.
pub fn without_authorization(text: &[u8]) -> Vec<u8> {
    without(text, is_authorization)
}

/// The same, and without what clients add to tell their requests apart (`bx24_request_id` of b24jssdk, new at each
/// repeat): what makes a call the same call.
pub fn without_marks(text: &[u8]) -> Vec<u8> {
    without(text, |name| is_authorization(name) || name.starts_with(b"bx24_"))
}

fn without(text: &[u8], is_unwanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len());
    for (i, segment) in text.split(|b| *b == b'&').enumerate() {
        let name = segment.split(|b| *b == b'=').next().unwrap_or(segment);
        if is_unwanted(&decoded(name)) {
            continue;
        }
        if i > 0 && !(kept.is_empty() && segment.is_empty()) {
            kept.push(b'&');
        }
        kept.extend(segment);
    }
    match kept.strip_prefix(b"&") {
        Some(rest) => rest.to_vec(),
        None => kept,
    }
}

fn decoded(name: &[u8]) -> Vec<u8> {
    let mut spaced = name.to_vec();
    // A `+` that is encoded stays one.
    spaced.iter_mut().filter(|byte| **byte == b'+').for_each(|byte| *byte = b' ');
    match memchr::memchr(b'%', &spaced) {
        Some(_) => percent::decoded(&spaced),
        None => spaced,
    }
}

/// The query with every byte that may not stand in an address (RFC 3986, section 3.4) percent-encoded, which PHP reads
/// alike.
pub fn for_address(query: &[u8]) -> String {
    percent::encoded(query, b"-._~!$&'()*+,;=:@/?%[]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_have_the_names_that_were_posted_and_the_last_value() {
        let form = Form::of(b"event=A&auth%5Bdomain%5D=acme.bitrix24.ru&event=B+C&&x&=y".to_vec());
        assert_eq!(form.text("auth[domain]"), "acme.bitrix24.ru");
        assert_eq!(form.text("event"), "B C");
        assert!(!form.has("AUTH_ID") && form.has("x"));
    }

    #[test]
    fn only_the_authorization_is_taken_out() {
        let without = |text: &str| String::from_utf8(without_authorization(text.as_bytes())).unwrap();
        assert_eq!(without("a=1&b=%26&"), "a=1&b=%26&");
        assert_eq!(without("auth=X&a=1"), "a=1");
        assert_eq!(without("a=1&auth=X"), "a=1");
        assert_eq!(without("a=1&%20auth%5Bx%5D=X&b"), "a=1&b");
        assert_eq!(without("authors=1&AUTH=2&fields[auth]=3"), "authors=1&AUTH=2&fields[auth]=3");
        assert_eq!(without("auth%00x=1&access.token=2&access+token[]=3&access[token=4&auth[5=6"), "auth[5=6");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Form::of(bytes).text("a");
        }

        #[test]
        fn fields_are_those_of_the_url_standard(text in "(a|[%+&=]|%41|%D0%96|%zz|%ff|Ж){0,12}") {
            let expected: Vec<(String, String)> = serde_urlencoded::from_str(&text).unwrap();
            prop_assert_eq!(fields(text.as_bytes()).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn no_authorization_is_left(text in "(auth|access_token|%61uth|a|=|&|\\+|%20|\\[|\\]|%5B){0,16}") {
            let left = without_authorization(text.as_bytes());
            for (name, _) in fields(&left) {
                prop_assert!(!is_authorization(name.as_bytes()), "{text} leaves {name}");
            }
        }

        #[test]
        fn what_is_without_it_stays_as_it_is(text in "([a-z=0-9\\[\\]+][a-z=&0-9\\[\\]+]{0,40})?") {
            prop_assume!(!text.contains("auth") && !text.contains("token"));
            prop_assert_eq!(without_authorization(text.as_bytes()), text.as_bytes());
        }
    }
}
